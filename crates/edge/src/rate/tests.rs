use super::*;

const SECOND: Nanos = 1_000_000_000;

fn limiter(per: &str, limit: u32, every: Duration) -> Limiter {
    Limiter::new(Rate { per: per.parse().unwrap(), limit, every })
}

fn clients(limiter: &Limiter) -> usize {
    limiter.clients.iter().map(|shard| shard.lock().unwrap().sets.len() * WAYS).sum()
}

#[test]
fn a_burst_passes_then_the_steady_rate() {
    let limiter = limiter("route", 5, Duration::from_secs(1));
    for _ in 0..5 {
        assert_eq!(limiter.pass(SECOND), Ok(()));
    }
    assert_eq!(limiter.pass(SECOND), Err(Duration::from_millis(200)));
    assert_eq!(limiter.pass(SECOND + 150_000_000), Err(Duration::from_millis(50)), "refusals don't count");
    assert_eq!(limiter.pass(SECOND + 200_000_000), Ok(()));
    assert_eq!(limiter.pass(SECOND + 200_000_000), Err(Duration::from_millis(200)));
    let passed = (0..10_000).filter(|at| limiter.pass(2 * SECOND + at * SECOND / 1_000).is_ok()).count();
    assert_eq!(passed, 4 + 49, "in ten seconds at 1,000 a second: what is left of the burst, and the rate");
    for _ in 0..5 {
        assert_eq!(limiter.pass(60 * SECOND), Ok(()), "after a rest the whole burst");
    }
    assert!(limiter.pass(60 * SECOND).is_err());
}

#[test]
fn one_a_day_and_a_million_a_millisecond() {
    let slow = limiter("route", 1, Duration::from_secs(86_400));
    assert_eq!((slow.pass(7), slow.pass(7)), (Ok(()), Err(Duration::from_secs(86_400))));
    let fast = limiter("route", 1_000_000, Duration::from_millis(1));
    let passed = (0..1_000_100).filter(|_| fast.pass(7).is_ok()).count();
    assert_eq!(passed, 1_000_000);
}

#[test]
fn each_client_has_its_own_limit() {
    let limiter = limiter("address", 2, Duration::from_secs(1));
    for client in ["a", "b"] {
        assert_eq!([1, 2].map(|_| limiter.pass_client(client, 7)), [Ok(()); 2]);
        assert_eq!(limiter.pass_client(client, 7), Err(Duration::from_millis(500)));
    }
}

#[test]
fn many_clients_take_bounded_memory_and_push_out_nobody_over_its_limit() {
    let limiter = limiter("address", 10, Duration::from_secs(60));
    while limiter.pass_client("greedy", 7).is_ok() {}
    for client in 0..500_000_u32 {
        assert_eq!(limiter.pass_client(client, 7), Ok(()), "nobody is refused for what others did");
    }
    assert!(limiter.pass_client("greedy", 7).is_err());
    assert_eq!(clients(&limiter), SHARDS * SETS_MAX * WAYS);
}

#[test]
fn whoever_keeps_to_the_rate_takes_no_room_for_long() {
    let limiter = limiter("address", 1, Duration::from_secs(1));
    for client in 0..100_000_u64 {
        assert_eq!(limiter.pass_client(client, (client + 1) * SECOND), Ok(()));
    }
    assert_eq!(clients(&limiter), SHARDS * WAYS);
}

#[test]
fn a_shard_that_grows_forgets_nobody() {
    let limiter = limiter("address", 1, Duration::from_secs(60));
    for client in 0..10_000_u64 {
        assert_eq!(limiter.pass_client(client, 7), Ok(()));
    }
    let again = (0..10_000_u64).filter(|client| limiter.pass_client(client, 7).is_ok()).count();
    assert_eq!(again, 0);
}

#[test]
fn threads_share_one_limit() {
    for per in ["address", "route"] {
        let limiter = limiter(per, 1_000, Duration::from_secs(60));
        let pass = || match per {
            "route" => limiter.pass(7),
            _ => limiter.pass_client("one", 7),
        };
        let passed: usize = std::thread::scope(|scope| {
            let count = || (0..2_000).filter(|_| pass().is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 1_000, "{per}");
    }
}
