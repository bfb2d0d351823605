//! Limits of the SQL layer, each with its unit in its name.
//!
//! They bound what one statement may cost before it runs; what it may cost while running is bounded by the memory
//! pool of [`crate::Options`] and by the settings `statement_timeout` and `tagmill.max_rows`.

/// Bytes of one SQL text.
pub const SQL_BYTES_MAX: usize = 64 << 10;
/// Words, numbers and signs of one SQL text.
pub const SQL_TOKENS_MAX: usize = 4_096;
/// Parameters of one statement.
pub const PARAMETERS_MAX: usize = 1_024;
/// Parentheses open at once.
pub const SQL_NESTING_MAX: usize = 32;
/// Operators of one chain, such as `a OR b OR c`.
pub const OPERATORS_MAX: usize = 256;
/// UNION, INTERSECT and EXCEPT of one statement.
pub const SET_OPERATIONS_MAX: usize = 32;
/// Joins of one statement, as it is written.
pub const JOINS_MAX: usize = 16;
/// Joins of one statement where those that WITH defines count as often as they are named.
pub const JOINS_NAMED_MAX: usize = 64;
/// Relations that one statement names.
pub const RELATIONS_MAX: usize = 128;
/// Sets that CUBE, ROLLUP and GROUPING SETS of one query come to.
pub const GROUPING_SETS_MAX: usize = 4_096;
/// Parts of the expressions of all these sets: each set has expressions of its own.
pub const GROUPING_PARTS_MAX: usize = 1 << 20;
/// Depth of one expression, and of one plan. Evaluating it takes a stack frame per level.
pub const EXPRESSION_DEPTH_MAX: usize = 400;
/// Parts of all expressions of a plan, where each stands in place of the column it makes.
pub const EXPANDED_PARTS_MAX: usize = 100_000;
/// Types within the type of what a function makes, such as a structure of structures.
pub const TYPE_PARTS_MAX: usize = 1_024;
/// Values, or bytes, of one value of a type of fixed size, such as `INT[3][1000]`.
pub const FIXED_SIZE_MAX: u64 = 4_096;
/// Stack of the thread that plans: deep statements are refused with a message instead of ending the process.
pub const PLAN_STACK_BYTES: usize = 64 << 20;

/// Statements that are planned at once; more wait for their turn.
pub const PLANS_MAX: usize = 16;
/// Bytes of a regular expression, and of the program it is compiled to.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// See [`PATTERN_BYTES_MAX`].
pub const PATTERN_PROGRAM_BYTES_MAX: usize = 1 << 20;
/// Bytes of all constants of one plan: each may be written out for every row of a batch.
pub const CONSTANTS_BYTES_MAX: usize = 256 << 10;
/// Bytes that one call of a function may make for one batch of rows, where it can make much of little.
pub const CALL_BYTES_MAX: u64 = 64 << 20;
/// Steps that one call of a function may take for one batch of rows, where they grow with the product of its arguments.
pub const CALL_STEPS_MAX: u64 = 1 << 30;
/// Steps that one call of a function may take to find a pattern in texts, for one batch of rows. A step is a byte looked at.
pub const MATCH_STEPS_MAX: u64 = 1 << 32;
/// Centroids of an approximate percentile.
pub const CENTROIDS_MAX: u64 = 10_000;
/// Bytes of one batch on its way through a plan.
pub const BATCH_BYTES_MAX: usize = 256 << 20;

/// Rows of one batch that a scan hands on.
pub const BATCH_ROWS: usize = 8_192;
/// Batches a scan may be ahead of its reader, per partition.
pub const BATCHES_AHEAD: usize = 2;
/// Tags of one read of the engine; a dropped query ends after at most one such read.
pub const SCAN_TAGS: usize = 512;
/// A scan that is estimated to hold fewer rows runs in one partition.
pub const PARTITION_ROWS_MIN: u64 = 4 * BATCH_ROWS as u64;
/// Windows of local time that one statement lists to have them from tiers; with more it reads samples.
pub const WINDOWS_LISTED_MAX: usize = 100_000;

/// Tags that one `grid` has columns for.
pub const GRID_TAGS_MAX: usize = 1_000;
/// Cells of a `grid` that are worked on at once.
pub const GRID_CELLS: usize = 1 << 20;
/// Pixels of one `m4`, and points of one `lttb`.
pub const CHART_POINTS_MAX: i64 = 1_000_000;

/// Buckets of a range that are listed once for all tags; more are computed tag by tag.
pub const CELLS_LISTED_MAX: usize = 65_536;

/// Unknown tag names that one statement reports.
pub const NOTICES_MAX: usize = 8;
/// Names offered for one unknown tag name.
pub const NEAR_NAMES_MAX: usize = 3;

/// Query memory of one database unless [`crate::Options`] says otherwise.
pub const MEMORY_BYTES: usize = 1 << 30;
/// Part of it that one statement may have, as a divisor.
pub const MEMORY_SHARE: usize = 2;
/// Bytes that queries may spill to disk unless [`crate::Options`] says otherwise.
pub const SPILL_BYTES: u64 = 16 << 30;
/// Bytes that a merge of sorted streams may read ahead.
pub const SORT_AHEAD_BYTES: usize = 16 << 20;
