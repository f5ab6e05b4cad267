//! A lock whose holder is cut off, and what fencing is for: the lock passes to the next, and the
//! write of the old holder, which does not know it yet, is refused by the store itself.
//!
//! ```text
//! alpha has the lock
//! alpha writes: done
//! alpha is cut off
//! beta has the lock, with a higher token
//! beta writes: done
//! a late write of alpha: FENCED
//! alpha knows that it has lost the lock: true
//! the file was last written by beta
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use zmesh::kv::{Fence, Kv};
use zmesh::testing::TestCluster;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long after its holder has vanished the lock is free.
const TTL: Duration = Duration::from_secs(4);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = TestCluster::start(3).await?;
    let alpha = cluster.kv_through(0).await?.timeout(PATIENCE);
    let beta = cluster.kv().timeout(PATIENCE);

    // Kept alive in the background for as long as the guard lives.
    let first = alpha.lock("report", TTL).await?;
    println!("alpha has the lock");
    println!("alpha writes: {}", write(&beta, "alpha", first.fence()).await);

    alpha.client().node().stop().await;
    println!("alpha is cut off");
    let second = beta.lock("report", PATIENCE).await?;
    let higher = if second.token() > first.token() { "a higher" } else { "no higher" };
    println!("beta has the lock, with {higher} token");
    println!("beta writes: {}", write(&beta, "beta", second.fence()).await);

    // It was on its way for long: the store looks at the token in the step in which it would write.
    println!("a late write of alpha: {}", write(&beta, "alpha", first.fence()).await);
    first.lost().await;
    println!("alpha knows that it has lost the lock: {}", first.is_lost());
    second.release().await?;

    let file = beta.get("report").await?.ok_or("it was written")?;
    println!("the file was last written by {}", String::from_utf8_lossy(&file.value));
    Ok(())
}

/// Writes in the name of a holder, who shows its fence.
async fn write(kv: &Kv, writer: &'static str, fence: &Fence) -> String {
    match kv.set("report", writer).fenced_by(fence).await {
        Ok(_) => "done".to_owned(),
        Err(error) => error.code().to_string(),
    }
}
