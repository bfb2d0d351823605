//! Statements that would end or hang the process: each is refused, or ends within its limits, and the next one is answered.

use std::time::{Duration, Instant};

use tagmill::arrow::array::AsArray;
use tagmill::arrow::datatypes::{Int64Type, UInt64Type};
use tagmill::{Asker, Database, Error};

use crate::sql::{on_runtime, open};

/// Runs a statement that has a second.
async fn within_a_second(database: &Database, sql: &str) -> Result<usize, Error> {
    within(database, "1s", sql).await
}

async fn within(database: &Database, time: &str, sql: &str) -> Result<usize, Error> {
    let mut session = database.session();
    session.settings_mut().set("statement_timeout", time)?;
    let batches = session.execute(sql).await?.collect().await?;
    Ok(batches.iter().map(tagmill::arrow::array::RecordBatch::num_rows).sum())
}

/// `WITH l0 AS (first), l1 AS (next of l0) ..`, so many of them.
fn levels(count: usize, first: &str, next: &str) -> String {
    let lines = (1..count).map(|level| {
        let before = format!("l{}", level - 1);
        format!(", l{level} AS ({})", next.replace("{0}", &before))
    });
    let lines: String = lines.collect();
    format!("WITH l0 AS ({first}){lines} SELECT count(*) FROM l{}", count - 1)
}

#[test]
fn what_makes_much_of_little_is_refused() {
    let (_directory, database) = open("many_rows");
    let refused = [
        "SELECT repeat('x', 1000000000)".to_owned(),
        "SELECT repeat(repeat('x', 10000), 100000)".to_owned(),
        "SELECT max(length(repeat(tag, 100000))) FROM samples".to_owned(),
        "SELECT lpad('x', 2000000000, 'ab')".to_owned(),
        "SELECT rpad(tag, 1000000000) FROM samples".to_owned(),
        "SELECT replace(repeat('a', 60000), 'a', repeat('b', 60000))".to_owned(),
        "SELECT regexp_replace(repeat('a', 60000), 'a', repeat('b', 60000), 'g')".to_owned(),
        "SELECT array_to_string(generate_series(1, 100000), repeat('b', 60000))".to_owned(),
        "SELECT concat_ws(repeat('b', 60000), tag, tag, tag) FROM samples".to_owned(),
        "SELECT array_repeat(1, 1000000000)".to_owned(),
        "SELECT array_resize([1], 1000000000, 1)".to_owned(),
        "SELECT generate_series(1, 1000000000000)".to_owned(),
        "SELECT range(0, 1000000000000, 3)".to_owned(),
        "SELECT levenshtein(repeat('a', 60000), repeat('b', 60000))".to_owned(),
        "SELECT approx_percentile_cont(value, 0.5, 1000000000) FROM samples".to_owned(),
        "SELECT regexp_like(tag, '((a{100}){100}){100}') FROM samples".to_owned(),
        "SELECT tag ~ '(\\w{1000}){1000}' FROM samples".to_owned(),
        format!("SELECT tag ~ '{}' FROM samples", "a?".repeat(2_000)),
        "SELECT regexp_count(tag, tag) FROM samples".to_owned(),
        // Constants, each of them small enough to make, written out for every row.
        "SELECT repeat('x', 60000000) FROM samples".to_owned(),
        "SELECT arrow_cast(repeat('x', 60000000), 'LargeUtf8') FROM samples".to_owned(),
        format!("SELECT tag{} FROM samples", " || repeat('x', 60000)".repeat(200)),
        "SELECT generate_series(1, 100000), tag FROM samples".to_owned(),
        // A text that each level doubles, out of sight of the memory pool.
        levels(
            16,
            "SELECT tag || tag AS x, value FROM samples",
            "SELECT x || x AS x, value FROM {0}",
        )
        .replace("count(*)", "max(length(x))"),
        // Plans that each level doubles.
        levels(30, "SELECT value AS x FROM samples", "SELECT a.x FROM {0} a, {0} b"),
        levels(
            30,
            "SELECT value AS x FROM samples",
            "SELECT x FROM {0} UNION ALL SELECT x FROM {0}",
        ),
        levels(30, "SELECT 1 AS x", "SELECT (SELECT max(x) FROM {0}) + (SELECT 1 FROM {0}) AS x"),
    ];
    on_runtime(async {
        all_refused(&database, &refused).await;
        // What is meant well is answered.
        for (sql, rows) in [
            ("SELECT repeat('-', 80), lpad('7', 3, '0'), replace(tag, 'N', 'M') FROM tags", 8),
            ("SELECT * FROM generate_series(1, 1000)", 1_000),
            ("SELECT tag FROM tags WHERE tag ~ '^N-[0-3]$' AND regexp_like(tag, 'N-\\d')", 4),
            ("SELECT array_to_string(generate_series(1, 10), ', ')", 1),
            ("SELECT tag || ' ' || repeat('-', 80), concat(tag, '-', quality) FROM latest", 8),
            ("SELECT tag FROM tags WHERE tag ~ ('^' || 'N-[0-3]$')", 4),
            ("SELECT tag FROM tags WHERE regexp_like(tag, concat('^N-', '[0-3]', '$'))", 4),
            ("SELECT regexp_replace(tag, '[0-9]', '#', 'g') FROM tags", 8),
            (
                "SELECT cardinality(generate_series(TIMESTAMP '2025-01-01', TIMESTAMP '2026-01-01', \
                 INTERVAL '1 day'))",
                1,
            ),
        ] {
            assert_eq!(within_a_second(&database, sql).await.unwrap(), rows, "{sql}");
        }
    });
}

async fn all_refused(database: &Database, statements: &[String]) {
    for sql in statements {
        let shown = &sql[..80.min(sql.len())];
        // Time enough for a slow machine to find the limit, and not to make what is asked for.
        match within(database, "30s", sql).await {
            Err(Error::Limit(_)) => {}
            other => panic!("{shown} gave {other:?}"),
        }
    }
}

#[test]
fn types_that_each_level_doubles_are_refused() {
    let (_directory, database) = open("many_rows");
    let doubled = |form: &str| {
        levels(60, "SELECT value AS x FROM samples", &format!("SELECT {form} AS x FROM {{0}}"))
            .replace("count(*)", "x")
    };
    let refused = [
        doubled("named_struct('a', x, 'b', x)"),
        doubled("struct(x, x)"),
        doubled("row(x, x)"),
        doubled("(x, x)"),
        doubled("{a: x, b: x}"),
        doubled("MAP {x: x}"),
        doubled("map([x], [x])"),
        doubled("make_map(x, x)"),
        doubled("arrays_zip([x], [x])"),
    ];
    on_runtime(async {
        all_refused(&database, &refused).await;
        let wide = (0..500).map(|at| format!("value AS c{at}")).collect::<Vec<_>>().join(", ");
        for sql in [
            "SELECT {a: {b: [1, 2]}, c: MAP {'d': 3}}, named_struct('t', tag), (tag, value) FROM samples LIMIT 1",
            &format!("SELECT struct({wide}) FROM samples LIMIT 1"),
            "SELECT cardinality([1, 2] || [3]), [1] <@ [1, 2], overlay('abc' placing 'x' from 2)",
        ] {
            assert_eq!(within(&database, "30s", sql).await.unwrap(), 1, "{sql}");
        }
    });
}

#[test]
fn functions_that_grow_with_all_their_arguments_are_refused() {
    const SERIES: &str = "generate_series(1, 40000 + CAST(value AS BIGINT) % 1)";
    let (_directory, database) = open("many_rows");
    let refused = [
        "SELECT length(repeat('x', 300000))".to_owned(),
        "SELECT length(concat(repeat('a', 200000), repeat('b', 200000)))".to_owned(),
        "SELECT length(repeat('a', 200000) || repeat('b', 200000))".to_owned(),
        "SELECT length(encode(repeat('a', 200000), 'hex'))".to_owned(),
        // In a condition, where no batch is watched.
        levels(16, "SELECT tag AS x FROM samples", "SELECT x || x AS x FROM {0}") + " WHERE x <> ''",
        "SELECT generate_series(TIMESTAMP '2026-01-01', TIMESTAMP '2026-04-01', INTERVAL '1 nanosecond')"
            .to_owned(),
        "SELECT generate_series(TIMESTAMP '2026-01-01', TIMESTAMP '2026-04-01', INTERVAL '1 month -28 days')"
            .to_owned(),
        "SELECT array_to_string(generate_series(1, 1000), ',', repeat('b', 60000))".to_owned(),
        "SELECT array_to_string(array_repeat(generate_series(1, 100), 100), repeat('b', 1000))"
            .to_owned(),
        "SELECT regexp_count(repeat('A', 200000), '.*[^A-Z]|[A-Z]')".to_owned(),
        "SELECT overlay(repeat('a', 200000) placing repeat('b', 200000) from 1 for 0)".to_owned(),
        "SELECT generate_series(1, 30000) || generate_series(1, 30000)".to_owned(),
        format!("SELECT {SERIES} @> {SERIES} FROM (SELECT value FROM samples LIMIT 1)"),
        format!("SELECT array_has_all({SERIES}, {SERIES}) FROM (SELECT value FROM samples LIMIT 1)"),
    ];
    on_runtime(all_refused(&database, &refused));
}

/// What the optimizer would write out, evaluate or fold for ever, or what would end the process there.
#[test]
fn plans_that_grow_while_they_are_planned_are_refused() {
    let (_directory, database) = open("many_rows");
    let doubled = levels(31, "SELECT value AS x FROM samples", "SELECT x + x AS x FROM {0}");
    let constant = levels(
        12,
        "SELECT repeat('a', 200000) AS x, value FROM samples",
        "SELECT x || x AS x, value FROM {0}",
    );
    let sums: Vec<String> = (0..30).map(|at| format!("value + {at}")).collect();
    let refused = [
        format!("{doubled} WHERE x > 1"),
        format!("EXPLAIN {doubled} WHERE x > 1"),
        format!("SELECT 1 WHERE EXISTS ({doubled} WHERE x > 1)"),
        format!("SELECT tag FROM tags WHERE 1 < ({doubled} WHERE x > 1)"),
        format!("{constant} WHERE length(x) > 1"),
        format!("SELECT count(*) FROM samples GROUP BY CUBE({})", sums.join(", ")),
        "SELECT NULL::INT[2147483647][1000]".to_owned(),
        "SELECT TRY_CAST(NULL AS INT[2147483647][1000])".to_owned(),
        "SELECT arrow_cast(NULL, 'FixedSizeBinary(2147483647)')".to_owned(),
    ];
    on_runtime(async {
        all_refused(&database, &refused).await;
        let few = levels(10, "SELECT value AS x FROM samples", "SELECT x + x AS x FROM {0}");
        assert_eq!(within(&database, "30s", &format!("{few} WHERE x > 1")).await.unwrap(), 1);
        let cube = "SELECT count(*) FROM latest GROUP BY CUBE(tag, quality)";
        assert!(within(&database, "30s", cube).await.is_ok());
    });
}

#[test]
fn what_joins_and_windows_would_copy_is_refused() {
    let (_directory, database) = open("many_rows");
    let list = "(SELECT array_agg(value) AS v, 0 AS q FROM samples) a";
    let refused = [
        format!("SELECT max(array_length(v)), count(*) FROM {list} CROSS JOIN samples"),
        format!("SELECT max(v[1]), max(array_length(v)) FROM samples JOIN {list} ON quality = q"),
        "SELECT array_agg(value) OVER (ORDER BY ts) FROM samples".to_owned(),
        "SELECT string_agg(tag, ',') OVER (PARTITION BY quality) FROM samples".to_owned(),
    ];
    on_runtime(async {
        all_refused(&database, &refused).await;
        let short = "SELECT v, tag FROM (SELECT array_agg(tag) AS v FROM tags) a CROSS JOIN tags";
        assert_eq!(within(&database, "30s", short).await.unwrap(), 8);
    });
}

/// As many at once as there are threads, so that nothing is left to tell them their time is over.
#[test]
fn joins_that_keep_nothing_end_when_their_time_is_over() {
    let (_directory, database) = open("many_rows");
    let endless = [
        "SELECT count(*) FROM samples a, samples b WHERE a.value + b.value > 1e300",
        "SELECT count(*) FROM samples a JOIN samples b ON a.value < b.value - 1e300",
        "SELECT count(*) FROM samples a JOIN samples b ON a.quality = b.quality AND a.value + b.value > 1e300",
        "SELECT count(*) FROM samples a CROSS JOIN samples b CROSS JOIN samples c",
        "SELECT count(*) FROM samples a WHERE EXISTS (SELECT 1 FROM samples b WHERE b.quality = a.quality)",
        "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    ];
    on_runtime(async {
        for sql in endless {
            let begin = Instant::now();
            let all: Vec<_> = (0..6)
                .map(|_| {
                    let database = database.clone();
                    tokio::spawn(async move { within_a_second(&database, sql).await })
                })
                .collect();
            for one in all {
                let ended = one.await.unwrap();
                assert!(matches!(ended, Err(Error::Timeout(_))), "{sql}: {ended:?}");
            }
            // They are not over because they came to their end, which would take minutes.
            assert!(begin.elapsed() < Duration::from_secs(30), "{sql}: {:?}", begin.elapsed());
            assert_eq!(within_a_second(&database, "SELECT 1").await.unwrap(), 1);
        }
    });
}

#[test]
fn a_statement_that_runs_is_seen_and_can_be_ended() {
    let (_directory, database) = open("many_rows");
    let asker = |id: &str, is_operator| Asker {
        id: std::sync::Arc::from(id),
        name: std::sync::Arc::from(id),
        door: "test",
        is_operator,
    };
    // It keeps its threads from everybody else.
    let threads = tokio::runtime::Runtime::new().unwrap();
    on_runtime(async {
        let endless = "SELECT count(*) FROM samples a, samples b WHERE a.value + b.value > 1e300";
        let mut session = database.session().on_behalf_of(asker("ann", false));
        let running = threads.spawn(async move { session.execute(endless).await?.collect().await });
        let seen = loop {
            let seen = database.running(&asker("root", true));
            if seen.iter().any(|statement| statement.is_running) {
                break seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!((seen[0].sql.as_ref(), seen[0].asker.name.as_ref()), (endless, "ann"));
        // Others see nothing of it, in SQL or otherwise, and cannot end it.
        let mut other = database.session().on_behalf_of(asker("bob", false));
        let own = "SELECT count(*), max(principal), max(door) FROM system.queries";
        let batches = other.execute(own).await.unwrap().collect().await.unwrap();
        assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 1);
        assert_eq!(batches[0].column(1).as_string_view().value(0), "bob");
        assert!(!database.end(seen[0].id, &asker("bob", false)));
        let mut boss = database.session().on_behalf_of(asker("root", true));
        let all = "SELECT id FROM system.queries WHERE principal = 'ann' AND state = 'running'";
        let batches = boss.execute(all).await.unwrap().collect().await.unwrap();
        assert_eq!(batches[0].column(0).as_primitive::<UInt64Type>().value(0), seen[0].id);
        assert!(database.end(seen[0].id, &asker("root", true)));
        let ended = running.await.unwrap();
        assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
        assert!(database.running(&asker("root", true)).is_empty());
    });
}

#[test]
fn one_statement_does_not_have_the_memory_of_all() {
    let directory = tempfile::tempdir().unwrap();
    tagmill_tests::fixture::build("many_rows", directory.path(), true).close().unwrap();
    let options = tagmill::Options {
        memory_bytes: 64 << 20,
        statement_memory_bytes: Some(1 << 20),
        ..tagmill::Options::default()
    };
    let database = Database::open(directory.path(), options).unwrap();
    for sql in [
        "SELECT array_agg(value), array_agg(ts), array_agg(tag) FROM samples",
        "SELECT value, ts, count(*) OVER () FROM samples",
    ] {
        let error = on_runtime(database.sql(sql)).unwrap_err();
        assert!(matches!(error, Error::Memory(_)), "{sql}: {error}");
    }
}

#[test]
fn an_answer_has_at_most_so_many_bytes() {
    let (_directory, database) = open("many_rows");
    on_runtime(async {
        let mut session = database.session();
        session.settings_mut().set("tagmill.max_bytes", "100kB").unwrap();
        let mut rows = session.execute("SELECT value FROM samples").await.unwrap();
        let error = loop {
            match rows.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("all came: 640 kB"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Limit(_)), "{error}");
        let few = session.execute("SELECT value FROM samples LIMIT 5000").await.unwrap();
        assert!(few.collect().await.is_ok());
    });
}
