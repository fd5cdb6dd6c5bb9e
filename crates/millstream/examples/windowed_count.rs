//! Counts generated clicks per page and ten seconds into files, and shows each batch as it is committed.
//!
//! `cargo run -p millstream --example windowed_count -- OUT`; stop it with Ctrl-C or kill it, and start it again.

use futures::StreamExt;
use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let out = std::path::PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "windowed_count.out".to_string()));
    let session = Session::new()?;
    session.sql(
        "CREATE TABLE clicks (page BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
         WITH ('connector' = 'datagen', 'number-of-rows' = '200000', 'rows-per-second' = '50000',
               'fields.page.min' = '1', 'fields.page.max' = '5', 'fields.at.step' = '1 ms')",
    )?;
    let counts = session
        .table("clicks")?
        .window("at", tumble(Duration::from_secs(10)))?
        .aggregate([col("window_start"), col("window_end"), col("page")], [count(lit(1)).alias("clicks")])?;
    let writer = counts.write_stream().query_name("clicks").format("json").path(out.join("counts"));
    let stream =
        writer.state_dir(out.join("state")).trigger(Trigger::Interval(Duration::from_millis(500))).start().await?;

    let stopper = stream.stopper();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopper.stop();
        }
    });
    let mut batches = stream.progress();
    while let Some(batch) = batches.next().await {
        println!("batch {}: {} rows in, {} out, {:?}", batch.batch.0, batch.rows_in, batch.rows_out, batch.duration);
    }
    println!("{:?}", stream.wait().await?.state);
    Ok(())
}
