//! Memory of each shard by part, in metrics.

use crate::common::{
    PATIENCE, Process, directory, get, insert, metric, metric_sum, runtime, vector,
};
use crate::{DIMENSION, ONE_SHARD};

const COUNT: u64 = 5_000;

#[test]
fn memory_by_part_is_what_the_rows_of_all_documents_take() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), ONE_SHARD);
    runtime().block_on(async {
        let pairs = [("text", "some twenty bytes of it")];
        let documents: Vec<_> =
            (1..=COUNT).map(|id| insert(id, &vector(id, DIMENSION), &pairs)).collect();
        let mut client = process.client().await;
        let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap();
        assert!(loaded.into_inner().success);
    });
    let begun = std::time::Instant::now();
    let count = COUNT as f64;
    // Measured once a second.
    let text = loop {
        let text = get(process.http, "/metrics").unwrap().1;
        let links = metric(&text, "kyrodb_memory_bytes{shard=\"0\",part=\"links\"}").unwrap();
        // Includes the lists of upper levels, once all are linked.
        if links >= count * 133.0 {
            break text;
        }
        assert!(begun.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let part = |part: &str| {
        let name = format!("kyrodb_memory_bytes{{shard=\"0\",part=\"{part}\"}}");
        metric(&text, &name).unwrap() / count
    };
    // Rows are padded to lines of 64 bytes; a code has a scale, and a node two lines of links, at M = 16, and one line
    // more for each level above.
    assert_eq!((part("vectors"), part("codes")), (64.0, 68.0));
    assert!((133.0..150.0).contains(&part("links")), "{text}");
    assert!((28.0..60.0).contains(&part("ids")), "{text}");
    assert!((50.0..120.0).contains(&part("metadata")), "{text}");
    assert!((0.2..20.0).contains(&part("metadata_index")), "{text}");
    let sum = metric_sum(&text, "kyrodb_memory_bytes");
    assert!((count * 340.0..count * 500.0).contains(&sum), "{sum}");
    assert!(sum < metric(&text, "kyrodb_memory_used_bytes").unwrap(), "{text}");
    process.stop();
    // The plan for this many documents equals the measured memory.
    let plan = |rows: &str, max_bytes: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_server"))
            .args(["--plan", "--rows", rows, "--dim", "8", "--metadata-bytes", "27"])
            .env("KYRODB__MEMORY__MAX_BYTES", max_bytes)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, table) = plan("5000", "1073741824");
    assert_eq!(code, Some(0), "{table}");
    let planned = |name: &str| -> f64 {
        let line = table.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    for (name, named) in [
        ("vectors", "vectors"),
        ("codes", "codes"),
        ("links of the graph", "links"),
        ("ids and lifetimes", "ids"),
        ("metadata", "metadata"),
    ] {
        let ratio = planned(name) / part(named);
        assert!((0.8..1.25).contains(&ratio), "{name}: {ratio}\n{table}");
    }
    let (code, table) = plan("5000000", "1073741824");
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("does NOT fit into the 1.0 GiB"), "{table}");
}
