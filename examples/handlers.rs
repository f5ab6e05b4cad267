//! Handlers: patterns, typed payloads, refusals, middleware.
//!
//! ```text
//! order 7: 3 x tea for ada
//! refused with REFUSED: coffee is out
//! refused with INVALID_PAYLOAD
//! eu.west reports 21 degrees
//! refused with NO_HANDLER: no handler for shop.unknown
//! the middleware saw 5 calls
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zmesh::route::Filter;
use zmesh::{Call, HandlerError, Next, Node, Peer, RequestError};

#[derive(Deserialize, Serialize)]
struct Order {
    item: String,
    count: u32,
}

async fn order(from: Peer, order: Order) -> Result<String, HandlerError> {
    match order.item.as_str() {
        "coffee" => Err(HandlerError::refused("coffee is out")),
        item => Ok(format!("order 7: {} x {item} for {}", order.count, from.id())),
    }
}

/// `weather.*.*` matched two words; the subject tells which.
async fn weather(from: Peer, degrees: i32) -> Result<String, HandlerError> {
    let place = from.subject().trim_start_matches("weather.").to_owned();
    Ok(format!("{place} reports {degrees} degrees"))
}

fn code(error: RequestError) -> String {
    if let RequestError::Handler { code, message, .. } = &error {
        return format!("refused with {code}: {message}");
    }
    error.to_string()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shop = Node::builder("shop").bind("tcp://127.0.0.1:0").start()?;
    shop.on_request("shop.order", order)?;
    shop.on_request("weather.*.*", weather)?;
    // Everything nobody else handles: `>` stands for one or more words.
    shop.on_request("audit.>", |_from: Peer, (): ()| async { Ok::<_, HandlerError>(()) })?;

    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    shop.wrap(move |call: Call, next: Next| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move { next.run(call).await }
    });

    let ada = Node::builder("ada").connect(shop.address().ok_or("not bound")?).start()?;
    ada.wait_for_peers(&Filter::any(), 1, Duration::from_secs(5)).await?;

    let tea = Order { item: "tea".into(), count: 3 };
    println!("{}", ada.request::<_, String>("shop", "shop.order", &tea).await?);
    let coffee = Order { item: "coffee".into(), count: 1 };
    let refused = ada.request::<_, String>("shop", "shop.order", &coffee).await;
    println!("{}", code(refused.expect_err("it is out")));
    let wrong = ada.request::<_, String>("shop", "shop.order", &"tea, please").await;
    let wrong = code(wrong.expect_err("not an order"));
    println!("{}", wrong.split(':').next().unwrap_or_default());
    println!("{}", ada.request::<_, String>("shop", "weather.eu.west", &21).await?);
    let unknown = ada.request::<_, String>("shop", "shop.unknown", &()).await;
    println!("{}", code(unknown.expect_err("nobody handles it")));
    ada.request::<_, ()>("shop", "audit.stock.shelf", &()).await?;
    println!("the middleware saw {} calls", calls.load(Ordering::Relaxed));
    Ok(())
}
