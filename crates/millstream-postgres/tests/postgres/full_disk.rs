//! A disk of the server that is full.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::DataType;
use millstream_core::ErrorKind;
use millstream_core::sink::OutputKind;

use crate::server::{Database, field, open, script, spec, start};

/// A file system of 8 MB that the server may write to; it goes with this.
struct Disk(PathBuf);

impl Disk {
    /// None where this user may not mount one, which is said once.
    fn new() -> Option<Self> {
        let home = script("home", "full").unwrap();
        let path = PathBuf::from(format!("{home}-disk"));
        let done = |command: &mut Command| command.output().is_ok_and(|out| out.status.success());
        std::fs::create_dir_all(&path).unwrap();
        // One that a killed run has left.
        let _ = done(Command::new("umount").arg(&path));
        if !done(Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&path)) {
            script("remove", "full").unwrap();
            let _ =
                writeln!(std::io::stderr(), "NOT TESTED, a full disk of PostgreSQL: mounting a small one takes root");
            return None;
        }
        let disk = Self(path);
        std::fs::create_dir(disk.space()).unwrap();
        assert!(done(Command::new("chown").arg(format!("--reference={home}")).arg(disk.space())));
        Some(disk)
    }

    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        std::fs::write(&path, vec![0; 5 << 20]).unwrap();
        path
    }

    /// Where the server keeps tables.
    fn space(&self) -> PathBuf {
        self.0.join("space")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = script("remove", "full");
        let _ = Command::new("umount").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_batch_that_met_a_full_disk_is_there_once_when_there_is_room() {
    script("remove", "full").unwrap();
    let url = start("full");
    let Some(disk) = Disk::new() else { return };
    let database = Database::at(&url).await;
    database.run(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.space().display())).await;
    for key in [&[][..], &["id"]] {
        let primary = if key.is_empty() { "" } else { "PRIMARY KEY USING INDEX TABLESPACE small" };
        database.run("DROP TABLE IF EXISTS t, millstream_markers").await;
        database.run(&format!("CREATE TABLE t (id bigint {primary}, name text) TABLESPACE small")).await;
        let table = format!("{}.t", database.schema);
        let columns = vec![field("id", DataType::Int64), field("name", DataType::Utf8)];
        let mut sink = open(&spec(&url, &table, columns, key, &[]), OutputKind::Append).await;
        let batch = |n: i64| -> Vec<ArrayRef> {
            let ids = Int64Array::from_iter_values(n * 5_000..(n + 1) * 5_000);
            vec![Arc::new(ids), Arc::new(StringArray::from_iter_values((0..5_000).map(|n| format!("name {n}"))))]
        };
        let filler = disk.fill();
        let mut stored = 0;
        let error = loop {
            match sink.publish(batch(stored)).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 100, "the disk should be full");
        };
        assert!(stored > 0, "{error}");
        assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
        assert!(error.to_string().contains("disk is full: make room"), "{error}");
        let counted = || database.rows("SELECT count(*), count(DISTINCT id) FROM t");
        assert_eq!(counted().await, [format!("{0}|{0}", stored * 5_000)]);
        std::fs::remove_file(filler).unwrap();
        sink.open().await.unwrap();
        sink.publish(batch(stored)).await.unwrap();
        assert_eq!(counted().await, [format!("{0}|{0}", (stored + 1) * 5_000)]);
    }
}
