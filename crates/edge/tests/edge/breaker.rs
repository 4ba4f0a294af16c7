//! Instances that fail are passed over, and what they failed is tried elsewhere where that does nothing twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use minato_model::{
    route::{Endpoint, Route},
    routing::Routing as _,
};
use tokio::{io::AsyncWriteExt as _, task::JoinHandle};

use crate::support::{Bed, Told, bed, endpoint, read_request, release, serve_raw, within};

/// An instance that answers everything with one status, which can be changed; 0: it closes the connection once it
/// has read the request.
struct Acting {
    endpoint: Endpoint,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
    /// The answer's further header lines.
    task: JoinHandle<()>,
}

impl Acting {
    async fn start(bed: &Bed, name: &str, status: u16) -> Self {
        Self::saying(bed, name, status, "").await
    }

    async fn saying(bed: &Bed, name: &str, status: u16, fields: &'static str) -> Self {
        let (status, asked) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (says, counts) = (Arc::clone(&status), Arc::clone(&asked));
        let (address, task) = serve_raw(move |mut stream| {
            let (says, counts) = (Arc::clone(&says), Arc::clone(&counts));
            async move {
                let mut rest = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut rest).await {
                    counts.fetch_add(1, SeqCst);
                    // A broken page is broken on every instance.
                    let status = if request.path == "/broken" { 500 } else { says.load(SeqCst) };
                    if status == 0 {
                        return;
                    }
                    let tried = if request.head.contains("minato-attempt: ") { "again" } else { "first" };
                    let answer = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: 5\r\n\r\n{tried}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let endpoint = endpoint(name, release(1), address);
        bed.handle.admit(endpoint.clone());
        Self { endpoint, status, asked, task }
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Nothing is tried again, and who fails is passed over for so long.
fn plain(eject: Duration) -> impl FnOnce(&mut Route) {
    move |route| {
        route.traffic.retries.attempts = 0;
        route.traffic.breaker.eject = eject;
    }
}

async fn statuses(bed: &Bed, path: &str, count: usize) -> Vec<u16> {
    let mut client = bed.client().await;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(client.ask("GET", path, "").await.status);
    }
    all
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn who_fails_five_times_in_a_row_is_passed_over() {
    let bed = bed();
    bed.publish_web(plain(LONG)).await;
    let bad = Acting::start(&bed, "bad", 503).await;
    let _good = [Acting::start(&bed, "one", 200).await, Acting::start(&bed, "two", 200).await];
    let failed = statuses(&bed, "/", 200).await.iter().filter(|status| **status == 503).count();
    assert_eq!((failed, bad.asked()), (5, 5));
    let text = bed.handle.metrics();
    assert!(
        text.contains("minato_outlier_ejections_total{app=\"shop\",service=\"web\",release=\"1\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn one_probe_brings_it_back_and_two_that_fail_have_it_replaced() {
    let mut bed = bed();
    bed.publish_web(plain(Duration::from_millis(20))).await;
    let bad = Acting::start(&bed, "bad", 502).await;
    let _good = Acting::start(&bed, "good", 200).await;
    let mut client = bed.client().await;
    let failing = within(async {
        loop {
            client.ask("GET", "/", "").await;
            if let Ok(told) = bed.told.try_recv() {
                break told;
            }
        }
    })
    .await;
    assert_eq!(failing, Told::Failing(bad.endpoint.instance.clone()));
    assert_eq!(bad.asked(), 5 + 2, "two probes");
    bad.status.store(200, SeqCst);
    within(async {
        while bad.asked() < 40 {
            client.ask("GET", "/", "").await;
        }
    })
    .await;
    assert!(bed.told.try_recv().is_err(), "it is said once");
}

#[tokio::test]
async fn a_broken_page_takes_nobody_out() {
    let bed = bed();
    bed.publish_web(plain(LONG)).await;
    let all = [Acting::start(&bed, "one", 200).await, Acting::start(&bed, "two", 200).await];
    assert!(statuses(&bed, "/broken", 100).await.iter().all(|status| *status == 500));
    let before = all.each_ref().map(Acting::asked);
    assert!(statuses(&bed, "/", 100).await.iter().all(|status| *status == 200));
    assert!(all.iter().zip(before).all(|(instance, before)| instance.asked() > before), "both serve on");
}

#[tokio::test]
async fn who_fails_more_than_its_siblings_is_passed_over() {
    let bed = bed();
    bed.publish_web(plain(LONG)).await;
    let bad = Acting::start(&bed, "bad", 500).await;
    let _good = [Acting::start(&bed, "one", 200).await, Acting::start(&bed, "two", 200).await];
    statuses(&bed, "/", 200).await;
    // At the fifth at the soonest, and once its siblings have had as many.
    assert!((5..30).contains(&bad.asked()), "{}", bad.asked());
}

#[tokio::test]
async fn at_most_half_are_passed_over_and_never_the_last() {
    let bed = bed();
    bed.publish_web(plain(LONG)).await;
    let first = Acting::start(&bed, "one", 503).await;
    assert_eq!(statuses(&bed, "/", 30).await.len(), first.asked(), "the only one takes all");
    let second = Acting::start(&bed, "two", 503).await;
    statuses(&bed, "/", 60).await;
    let asked = [first.asked(), second.asked()];
    assert_eq!(statuses(&bed, "/", 20).await, [503; 20]);
    let grown = [first.asked() - asked[0], second.asked() - asked[1]];
    assert!(grown == [20, 0] || grown == [0, 20], "{grown:?}");
    // The one that takes requests goes: the other takes them rather than nobody.
    let (gone, left) = if grown[0] > 0 { (&first, &second) } else { (&second, &first) };
    bed.handle.withdraw(&gone.endpoint.instance).await;
    let before = left.asked();
    assert_eq!(statuses(&bed, "/", 5).await, [503; 5]);
    assert_eq!(left.asked(), before + 5);
}

#[tokio::test]
async fn what_is_safe_to_repeat_is_tried_elsewhere() {
    let bed = bed();
    bed.publish_web(|route| route.traffic.breaker.eject = LONG).await;
    let bad = Acting::start(&bed, "bad", 503).await;
    let _good = Acting::start(&bed, "good", 200).await;
    let mut client = bed.client().await;
    let mut repeated = 0;
    for _ in 0..40 {
        let reply = client.ask("GET", "/", "").await;
        assert_eq!(reply.status, 200);
        repeated += usize::from(reply.text() == "again");
    }
    assert_eq!((repeated, bad.asked()), (5, 5), "then it is passed over");
}

#[tokio::test]
async fn what_may_do_something_twice_is_not() {
    let bed = bed();
    bed.publish_web(|route| route.traffic.breaker.failures = 1_000).await;
    let bad = Acting::start(&bed, "bad", 0).await;
    let _good = Acting::start(&bed, "good", 200).await;
    let mut client = bed.client().await;
    let mut failed = 0;
    while bad.asked() < 3 {
        failed += usize::from(client.ask("POST", "/", "Content-Length: 0\r\n").await.status == 502);
    }
    assert_eq!(failed, bad.asked());
    let fields = "Content-Length: 0\r\nIdempotency-Key: 7\r\n";
    while bad.asked() < 6 {
        assert_eq!(client.ask("POST", "/", fields).await.status, 200);
    }
}

#[tokio::test]
async fn who_says_when_to_come_again_is_taken_at_its_word() {
    let bed = bed();
    bed.publish_web(|route| route.traffic.breaker.failures = 1_000).await;
    let busy = Acting::saying(&bed, "busy", 503, "Retry-After: 9\r\n").await;
    let _good = Acting::start(&bed, "good", 200).await;
    let mut client = bed.client().await;
    while busy.asked() == 0 {
        let reply = client.ask("GET", "/", "").await;
        assert_eq!(reply.status == 503, busy.asked() == 1);
    }
}

#[tokio::test]
async fn tries_stay_within_their_budget() {
    let bed = bed();
    bed.publish_web(|route| route.traffic.breaker.failures = 1_000).await;
    let all = [Acting::start(&bed, "one", 503).await, Acting::start(&bed, "two", 503).await];
    assert_eq!(statuses(&bed, "/", 200).await, [503; 200]);
    let asked: usize = all.iter().map(Acting::asked).sum();
    assert!((232..=275).contains(&asked), "a fifth more, and 32: {asked}");
    let none = bed.client().await.ask("GET", "/", "").await;
    assert_eq!((none.status, none.code()), (503, None), "the instance's own answer passes");
}
