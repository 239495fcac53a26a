//! Parquet as pyarrow reads it: types that are exact, and the records of the JSON lines.

use crate::python::{python, run};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::Path;

/// What is in closed files of Parquet, beside their manifests: by tenant packets and bytes sent; and whether each row's canonical
/// bytes have its leaf.
const PROGRAM: &str = r#"
import decimal, glob, hashlib, json, sys
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq

money = pa.decimal128(20, 0)
types = {
    "seq": pa.uint64(), "ledger_id": pa.binary(16), "kind": pa.string(), "host": pa.string(), "tenant": pa.uint32(),
    "port": pa.string(), "incarnation": pa.uint64(), "direction": pa.string(), "zone": pa.uint32(),
    "window_id": pa.uint64(), "window_start": pa.timestamp("ns", tz="UTC"), "window_end": pa.timestamp("ns", tz="UTC"),
    "flags": pa.string(), "packets": money, "l2_bytes": money, "l3_bytes": money, "leaf": pa.binary(32),
    "canonical": pa.binary(),
}
optional = {"zone", "packets", "l2_bytes", "l3_bytes"}
named, rows, seqs, sums = set(), 0, set(), {}
for path in glob.glob(sys.argv[1] + "/*/*.manifest.json"):
    manifest = json.load(open(path))
    directory = path.rsplit("/", 1)[0]
    for file in manifest["files"]:
        if not file["name"].endswith(".parquet"):
            continue
        name = directory + "/" + file["name"]
        named.add(name)
        assert hashlib.sha256(open(name, "rb").read()).hexdigest() == file["sha256"], name
        table = pq.read_table(name)
        assert {field.name: field.type for field in table.schema} == types, table.schema
        assert {field.name for field in table.schema if field.nullable} == optional, table.schema
        assert table.num_rows == manifest["records"], name
        for what in ("packets", "l2_bytes", "l3_bytes"):
            total = pc.sum(table[what]).as_py() or decimal.Decimal(0)
            assert str(total) == manifest[what], (name, what, total, manifest[what])
        times = [table[name].cast(pa.int64()) for name in ("window_start", "window_end")]
        assert pc.all(pc.less_equal(times[0], times[1])).as_py(), name
        for row in table.drop(["window_start", "window_end"]).to_pylist():
            key = (row["ledger_id"], row["seq"])
            assert key not in seqs, key
            seqs.add(key)
            assert hashlib.sha256(b"\0" + row["canonical"]).digest() == row["leaf"], key
            rows += 1
            if row["kind"] == "METER" and row["direction"] == "from":
                sum = sums.setdefault(row["tenant"], [0, 0])
                sum[0] += int(row["packets"])
                sum[1] += int(row["l2_bytes"])
assert named == set(glob.glob(sys.argv[1] + "/*/*.parquet")), "a file that no manifest names"
print(json.dumps({"rows": rows, "files": len(named), "sums": sums}))
"#;

/// Compares what pyarrow reads with what the JSON lines said: records, and packets and bytes that each tenant sent.
pub fn reads(directory: &Path, records: usize, lines: &[(u64, u64)]) -> Result<()> {
    let Some(python) = python("pyarrow.parquet") else {
        println!(
            "SKIPPED: Parquet as pyarrow reads it: it is not here; `cargo xtask setup` installs it"
        );
        return Ok(());
    };
    let directory = directory.to_str().context("a name")?;
    let read: Value = serde_json::from_str(&run(python, PROGRAM, &[directory], b"")?)?;
    ensure!(read["rows"] == records, "{read}, {records} records");
    for (tenant, (packets, bytes)) in (1..).zip(lines) {
        let sums = &read["sums"][tenant.to_string()];
        ensure!(
            sums[0] == *packets && sums[1] == *bytes,
            "{tenant}: {read}, {lines:?}"
        );
    }
    println!("CASES: records that pyarrow reads, each with its leaf: {records}");
    println!(
        "CASES: files of Parquet that pyarrow reads: {}",
        read["files"]
    );
    Ok(())
}
