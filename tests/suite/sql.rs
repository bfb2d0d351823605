//! Runs every `.slt` file of `tests/sql`, each on its fixture in the head and sealed, read in one part and in four.
//!
//! A file names its data in its first lines: `# fixture: plant_small` ([`tagmill_tests::fixture`]). Three things are
//! added to plain SQL: a notice is shown as a row `notice: ..` after the answer, EXPLAIN is cut down to the nodes that
//! tell what the scan took over ([`PLAN_NODES`]), and an error shows its message. `TAGMILL_SLT=write` writes the
//! answers into the files instead of comparing them: read the diff.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqllogictest::{
    DB, DBOutput, DefaultColumnType, Runner, default_column_validator, default_normalizer,
    default_validator,
};
use tagmill::arrow::array::{AsArray, RecordBatch};
use tagmill::arrow::datatypes::{DataType, Float64Type, Int64Type};
use tagmill::arrow::util::display::{ArrayFormatter, FormatOptions};
use tagmill::arrow::util::pretty::pretty_format_batches;
use tagmill::{
    Batch, Database, Dialect, Qualities, Session, TagColumn, TagDefinition, ValueType, Values,
};
use tagmill_server::postgres::dialect;
use tagmill_tests::fixture;
use tokio::runtime::Runtime;

/// What is shown of a plan.
const PLAN_NODES: [&str; 6] = [
    "FilterExec",
    "SortExec",
    "EmptyExec",
    "TagmillScan",
    "TagmillAggregate",
    "WindowedAggregate:",
];

/// One session, as the runner sees it.
struct Client {
    runtime: Runtime,
    session: Session,
}

impl Client {
    fn new(database: &Database, partitions: &str, dialect: Option<&Arc<Dialect>>) -> Self {
        let mut session = database.session();
        if let Some(dialect) = dialect {
            session = session.in_dialect(Arc::clone(dialect));
        }
        session.settings_mut().set("tagmill.partitions", partitions).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self { runtime, session }
    }
}

impl DB for Client {
    type Error = tagmill::Error;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, tagmill::Error> {
        let Self { runtime, session } = self;
        let (schema, notices, batches) = runtime.block_on(async {
            let answer = session.execute(sql).await?;
            let (schema, notices) = (Arc::clone(&answer.schema), answer.notices.clone());
            Ok::<_, tagmill::Error>((schema, notices, answer.collect().await?))
        })?;
        if schema.fields().is_empty() && !sql.trim_start().to_lowercase().starts_with("select") {
            return Ok(DBOutput::StatementComplete(0));
        }
        let mut rows: Vec<Vec<String>> = batches.iter().flat_map(rows_of).collect();
        let mut types: Vec<_> =
            schema.fields().iter().map(|field| type_of(field.data_type())).collect();
        if schema.fields().iter().any(|field| field.name() == "plan_type") {
            rows = rows.iter().flat_map(|row| nodes_of(row)).collect();
            types = vec![DefaultColumnType::Text];
        }
        rows.extend(notices.iter().map(|notice| vec![format!("notice: {notice}")]));
        Ok(DBOutput::Rows { types, rows })
    }

    fn engine_name(&self) -> &'static str {
        "tagmill"
    }
}

fn type_of(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        integer if integer.is_integer() => DefaultColumnType::Integer,
        float if float.is_floating() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

fn rows_of(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
        .collect();
    let cell = |row: usize| {
        columns.iter().map(move |column| match column.value(row).to_string() {
            empty if empty.is_empty() => "(empty)".to_owned(),
            shown => shown,
        })
    };
    (0..batch.num_rows()).map(|row| cell(row).collect()).collect()
}

/// The telling nodes of a physical plan, one a row.
fn nodes_of(row: &[String]) -> Vec<Vec<String>> {
    let [kind, plan] = row else { return Vec::new() };
    if !matches!(kind.as_str(), "physical_plan" | "Plan with Metrics") {
        return Vec::new();
    }
    let cut = |line: &str| {
        let node = PLAN_NODES.iter().find(|node| line.contains(*node))?;
        let from = line.find(node)?;
        let line = line[from..].split(", metrics=").next()?;
        Some(vec![line.trim().to_owned()])
    };
    plan.lines().filter_map(cut).collect()
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    files
}

fn fixture_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let name = text.lines().find_map(|line| line.strip_prefix("# fixture: "));
    name.unwrap_or_else(|| panic!("{} names no fixture", path.display())).trim().to_owned()
}

fn run(path: &Path, sealed: bool, partitions: &str, in_postgresql: bool) {
    let directory = tempfile::tempdir().unwrap();
    let database = fixture::build(&fixture_of(path), directory.path(), sealed);
    let dialect = in_postgresql.then(|| Arc::new(on_runtime(dialect::new(&database)).unwrap()));
    let mut runner = Runner::new(|| {
        let client = Client::new(&database, partitions, dialect.as_ref());
        async { Ok(client) }
    });
    runner.add_label(if sealed { "sealed" } else { "head" });
    if std::env::var("TAGMILL_SLT").is_ok_and(|mode| mode == "write") {
        let writing = runner.update_test_file(
            path,
            "  ",
            default_validator,
            default_normalizer,
            default_column_validator,
        );
        futures_block_on(writing).unwrap();
        return;
    }
    let shown = format!("{} sealed={sealed} partitions={partitions}", path.display());
    runner.run_file(path).unwrap_or_else(|error| panic!("{shown}\n{}", error.display(false)));
}

/// The runner's own calls need no runtime, and the client brings its own, which must not be inside another.
fn futures_block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

#[test]
fn sql_files_answer_as_written() {
    let files = files();
    assert!(!files.is_empty(), "there are no .slt files");
    for path in files {
        for sealed in [false, true] {
            for partitions in ["1", "4"] {
                run(&path, sealed, partitions, false);
            }
        }
    }
}

/// Whoever comes by PostgreSQL's wire finds what everybody finds: the same rows, notices and plans, the same refusals.
#[test]
fn sql_files_answer_alike_in_the_words_of_postgresql() {
    for path in files() {
        // The one has DataFusion's own words for what must not be done, which here are no statements at all; the other
        // lists all relations, to which `pg_catalog` adds its own.
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if !["read_only", "relations"].contains(&name) {
            run(&path, true, "4", true);
        }
    }
}

/// A runtime as a program would have it.
pub(crate) fn on_runtime<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

pub(crate) fn open(fixture_name: &str) -> (tempfile::TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let database = fixture::build(fixture_name, directory.path(), true);
    (directory, database)
}

fn first_i64(batches: &[RecordBatch]) -> i64 {
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[test]
fn a_statement_sees_one_state_of_the_database() {
    let (_directory, database) = open("plant_small");
    on_runtime(async {
        let mut session = database.session();
        let answer = session.execute("SELECT count(*) FROM samples").await.unwrap();
        let tag = database.define(&[TagDefinition::new("new", ValueType::I64)]).unwrap()[0];
        let column = TagColumn {
            tag,
            times: vec![fixture::START_NS],
            values: Values::I64(vec![1]),
            qualities: Qualities::GOOD,
        };
        database.append(Batch { columns: vec![column], ..Batch::default() }).unwrap();
        // Planned before the append, run after it.
        assert_eq!(first_i64(&answer.collect().await.unwrap()), 33);
        let after = database.sql("SELECT count(*) FROM samples").await.unwrap();
        assert_eq!(first_i64(&after), 34);
    });
}

#[test]
fn a_dropped_answer_ends_its_scan() {
    let (_directory, database) = open("many_rows");
    on_runtime(async {
        for _ in 0..20 {
            let mut answer = database.session().execute("SELECT * FROM samples").await.unwrap();
            assert!(answer.next().await.unwrap().is_some());
        }
    });
    // The runtime has waited for its blocking threads, or we would not be here. Nothing holds the database.
    database.close().unwrap();
}

#[test]
fn deep_statements_are_refused_or_answered_but_never_end_the_process() {
    let (_directory, database) = open("plant_small");
    let chain = |count: usize, part: &str, with: &str| vec![part; count].join(with);
    let statements = [
        format!("SELECT {}", chain(4_000, "1", "+")),
        format!("SELECT {}1", "-".repeat(9_000).replace("--", "- -")),
        format!("SELECT {}true", "NOT ".repeat(9_000)),
        format!("SELECT {}1{}", "(".repeat(60), ")".repeat(60)),
        format!("SELECT {}1{}", "abs(".repeat(64), ")".repeat(64)),
        format!("SELECT * FROM samples WHERE {}", chain(2_000, "value > 1", " OR ")),
        format!("SELECT * FROM samples WHERE {}", chain(1_500, "tag = 'a'", " OR ")),
        chain(1_500, "SELECT 1", " UNION ALL "),
        format!("SELECT {}", chain(300, "value", "+") + " FROM samples"),
        format!("{}SELECT 1{}", "SELECT * FROM (".repeat(60), ")".repeat(60)),
        format!("SELECT CASE {} END", chain(2_000, "WHEN 1 = 2 THEN 3", " ")),
    ];
    for sql in statements {
        let shown = &sql[..60.min(sql.len())];
        match on_runtime(database.sql(&sql)) {
            Ok(_) | Err(tagmill::Error::Limit(_) | tagmill::Error::Sql(_)) => {}
            Err(error) => panic!("{shown} .. gave {error}"),
        }
    }
}

#[test]
fn a_query_beyond_its_memory_ends_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    fixture::build("many_rows", directory.path(), true).close().unwrap();
    let options = tagmill::Options { memory_bytes: 1 << 20, ..tagmill::Options::default() };
    let database = Database::open(directory.path(), options).unwrap();
    // One group: all 80,000 rows must be held at once, however the readers take turns.
    let sql = "SELECT array_agg(value), array_agg(ts), array_agg(tag) FROM samples";
    let error = on_runtime(database.sql(sql)).unwrap_err();
    assert!(matches!(error, tagmill::Error::Memory(_)), "{error}");
    // The next one is not affected.
    assert_eq!(
        first_i64(&on_runtime(database.sql("SELECT count(*) FROM samples")).unwrap()),
        80_000
    );
}

#[test]
fn a_sort_beyond_its_memory_spills_and_is_right() {
    let directory = tempfile::tempdir().unwrap();
    fixture::build("many_rows", directory.path(), true).close().unwrap();
    let memory_bytes = 48 << 20;
    let options = tagmill::Options { memory_bytes, ..tagmill::Options::default() };
    let database = Database::open(directory.path(), options).unwrap();
    // Each thread that sorts sets room aside for its merge.
    let mut session = database.session();
    session.settings_mut().set("tagmill.partitions", "1").unwrap();
    on_runtime(async {
        let sorted = "SELECT value FROM samples, generate_series(1, 24) AS times(n) ORDER BY value, tag, ts, n";
        let explained = session.execute(&format!("EXPLAIN ANALYZE {sorted}")).await.unwrap();
        let plan = pretty_format_batches(&explained.collect().await.unwrap()).unwrap().to_string();
        let spilled = plan.split("spill_count=").skip(1).any(|rest| !rest.starts_with('0'));
        assert!(spilled, "{plan}");
        let mut answer = session.execute(sorted).await.unwrap();
        let (mut rows, mut last) = (0, f64::NEG_INFINITY);
        while let Some(batch) = answer.next().await.unwrap() {
            for value in batch.column(0).as_primitive::<Float64Type>().iter().flatten() {
                assert!(last <= value);
                last = value;
            }
            rows += batch.num_rows();
        }
        assert_eq!(rows, 24 * 80_000);
    });
}

#[test]
fn many_statements_run_at_once() {
    let (_directory, database) = open("many_rows");
    on_runtime(async {
        let running: Vec<_> = (0..64)
            .map(|number| {
                let database = database.clone();
                tokio::spawn(async move {
                    let tag = number % 8;
                    let sql =
                        format!("SELECT count(*) FROM samples WHERE tag = 'N-{tag}' AND value > 0");
                    first_i64(&database.sql(&sql).await.unwrap())
                })
            })
            .collect();
        for statement in running {
            assert_eq!(statement.await.unwrap(), 10_000);
        }
    });
}

#[path = "../../query/examples/sql.rs"]
#[expect(dead_code, unreachable_pub, reason = "an example has a main, a module has none")]
mod example;

#[test]
fn the_example_of_the_library_runs() {
    let directory = tempfile::tempdir().unwrap();
    let shown = on_runtime(example::run(directory.path())).unwrap();
    for part in ["| U1   | 708 ", "BadSensorFailure", "notice: no tag is named 'U1/TT-110.PV'"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}
