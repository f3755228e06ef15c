//! A Redis that is slowed and held while others write and look up: each answer is right, or there is none, and what was acknowledged
//! is there afterwards by itself.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use futures::future::join_all;
use tokio_postgres::Client;

use crate::harness::{self, Gateway, Online, Redis, Setup, SlowWay};
use crate::redis::{answer, audit, define, until_online};

/// As many customers are written, each by a client of its own, and as many clients look up.
const CUSTOMERS: usize = 3;

/// How many writes, and lookups that found a row, the next trouble waits for.
const AT_LEAST: usize = 20;

/// What the clients have done so far.
#[derive(Default)]
struct Done {
    /// The amount of each customer that was acknowledged last, and that was sent last.
    acknowledged: [AtomicI64; CUSTOMERS],
    sent: [AtomicI64; CUSTOMERS],
    writes: AtomicUsize,
    found: AtomicUsize,
    refused: AtomicUsize,
    is_over: AtomicBool,
}

impl Done {
    /// Writes newer and newer rows of a customer, until it is over.
    async fn write(&self, client: &Client, customer: usize) {
        while !self.is_over.load(Ordering::SeqCst) {
            let amount = self.sent[customer].fetch_add(1, Ordering::SeqCst) + 1;
            let row = format!("({customer}, '2025-06-01 00:00:00.{amount:06}Z', {amount})");
            harness::run(client, &format!("INSERT INTO spend VALUES {row}")).await;
            self.acknowledged[customer].store(amount, Ordering::SeqCst);
            self.writes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Looks up one customer after another, until it is over: what is found is no older than what was acknowledged before.
    async fn look_up(&self, client: &Client) {
        for customer in (0..CUSTOMERS).cycle().take_while(|_| !self.is_over.load(Ordering::SeqCst)) {
            let before = self.acknowledged[customer].load(Ordering::SeqCst);
            match answer(client, &lookup(customer)).await {
                Ok(found) => {
                    let found = found.map_or(0, |amount| amount.parse().unwrap());
                    let sent = self.sent[customer].load(Ordering::SeqCst);
                    assert!((before..=sent).contains(&found), "{before} was acknowledged, {sent} sent, {found} found");
                    self.found.fetch_add(1, Ordering::SeqCst);
                }
                Err(refusal) => {
                    let expected = "58030: could not read feature view \"spend\" from the online store";
                    assert!(refusal.starts_with(expected), "{refusal}");
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    // A client that was refused retries, and does not insist.
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        }
    }

    /// Waits until so many more writes were acknowledged, and so many more lookups answered, one way or the other.
    async fn goes_on(&self) {
        let count = |counts: &[&AtomicUsize]| counts.iter().map(|count| count.load(Ordering::SeqCst)).sum::<usize>();
        let (writes, lookups) = (count(&[&self.writes]), count(&[&self.found, &self.refused]));
        while count(&[&self.writes]) < writes + AT_LEAST || count(&[&self.found, &self.refused]) < lookups + AT_LEAST {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

fn lookup(customer: usize) -> String {
    format!("SELECT amount FROM spend WHERE customer_id = {customer}")
}

/// Writes and looks up on the gateway while `troubles` come and go; then all of it is online by itself, also for `other`.
async fn through(gateway: &Gateway, other: &Gateway, troubles: impl AsyncFnOnce(&Done)) {
    define(&gateway.connect().await).await;
    let (done, mut writers, mut readers) = (Done::default(), Vec::new(), Vec::new());
    for _ in 0..CUSTOMERS {
        writers.push(gateway.connect().await);
        readers.push(gateway.connect().await);
    }
    let writing = writers.iter().enumerate().map(|(customer, client)| done.write(client, customer));
    let looking_up = readers.iter().map(|client| done.look_up(client));
    let happening = async {
        done.goes_on().await;
        troubles(&done).await;
        done.goes_on().await;
        done.is_over.store(true, Ordering::SeqCst);
    };
    tokio::join!(join_all(writing), join_all(looking_up), happening);
    assert!(done.found.load(Ordering::SeqCst) > 0);
    for customer in 0..CUSTOMERS {
        let expected = done.acknowledged[customer].load(Ordering::SeqCst).to_string();
        for gateway in [gateway, other] {
            until_online(gateway, &lookup(customer), &expected).await;
        }
    }
}

#[tokio::test]
async fn a_redis_that_is_slowed_and_held_under_writes_and_lookups_loses_and_misleads_nobody() {
    let redis = Redis::start();
    let way = SlowWay::to(redis.port());
    let gateway = Setup::new(Online::Embedded).redis_at(&way.url()).start();
    let other = gateway.second_at(&redis.url());
    through(&gateway, &other, async |done| {
        for _ in 0..2 {
            // Slow, slower than signs of life may be, and then as still as a machine that swaps.
            for milliseconds in [10, 100, 500] {
                way.delay(milliseconds);
                done.goes_on().await;
            }
            way.delay(0);
            done.goes_on().await;
            redis.pause();
            done.goes_on().await;
            redis.go_on();
            done.goes_on().await;
        }
    })
    .await;
    let (code, said) = audit(&gateway, Some(&redis.url()), &["spend"]);
    assert_eq!(code, Some(0), "{said}");
}
