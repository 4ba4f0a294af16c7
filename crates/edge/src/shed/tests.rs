//! A queue and its instances in simulated time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

const MS: Micros = 1_000;

struct World {
    shedder: Shedder,
    places: u32,
    takes: Micros,
    starting: bool,
    now: Micros,
    in_flight: BinaryHeap<Reverse<Micros>>,
    queue: VecDeque<Micros>,
    /// When, and how long it had waited.
    served: Vec<(Micros, Micros)>,
    turned_away: Vec<Micros>,
}

impl World {
    fn new(places: u32, takes: Micros) -> Self {
        Self {
            shedder: Shedder::default(),
            places,
            takes,
            starting: false,
            now: 1,
            in_flight: BinaryHeap::new(),
            queue: VecDeque::new(),
            served: Vec::new(),
            turned_away: Vec::new(),
        }
    }

    fn carried(&self) -> u32 {
        self.in_flight.len().try_into().unwrap()
    }

    fn arrive(&mut self) {
        if self.carried() < self.places && self.queue.is_empty() {
            self.in_flight.push(Reverse(self.now + self.takes));
            self.served.push((self.now, 0));
        } else {
            if self.queue.is_empty() {
                self.shedder.begin(self.now);
            }
            self.queue.push_back(self.now);
        }
    }

    fn dispatch(&mut self) {
        while self.carried() < self.places
            && let Some(since) = self.queue.pop_front()
        {
            if !self.queue.is_empty() && self.shedder.turns_away(since, self.now) {
                self.turned_away.push(self.now);
                continue;
            }
            self.in_flight.push(Reverse(self.now + self.takes));
            let carried =
                Carried { waiting: self.queue.len().try_into().unwrap(), in_flight: self.carried() };
            let starting = self.starting;
            self.shedder.serves(since, self.now, carried, || starting);
            self.served.push((self.now, self.now - since));
        }
    }

    /// Runs until then, with so many arrivals a second.
    fn run(&mut self, until: Micros, per_second: u64) {
        let mut next = if per_second == 0 { Micros::MAX } else { self.now };
        loop {
            let over = self.in_flight.peek().map_or(Micros::MAX, |Reverse(at)| *at);
            let at = over.min(next);
            if at > until {
                break;
            }
            self.now = at;
            if over == at {
                self.in_flight.pop();
                self.dispatch();
            } else {
                self.arrive();
                next += 1_000_000 / per_second;
            }
        }
        self.now = until;
    }

    fn served_since(&self, since: Micros) -> Vec<Micros> {
        self.served.iter().filter(|(at, _)| *at >= since).map(|(_, waited)| *waited).collect()
    }
}

#[test]
fn under_twice_the_load_nothing_is_lost_and_who_is_served_waits_briefly() {
    let mut world = World::new(10, 50 * MS);
    world.run(10_000 * MS, 400);
    let later = world.served_since(3_000 * MS);
    assert!(later.len() >= 1_350, "{} of 1,400 places were used", later.len());
    assert!(later.iter().all(|waited| *waited <= 150 * MS), "the longest: {:?}", later.iter().max());
    let turned_away = world.turned_away.len();
    assert!((1_500..2_100).contains(&turned_away), "{turned_away}");
    assert!(world.queue.len() < 100);
}

#[test]
fn when_the_load_is_gone_nobody_is_turned_away_any_more() {
    let mut world = World::new(10, 50 * MS);
    world.run(5_000 * MS, 400);
    world.run(6_000 * MS, 180);
    let before = world.turned_away.len();
    assert!(before > 0);
    world.run(20_000 * MS, 180);
    assert_eq!(world.turned_away.len(), before);
}

#[test]
fn a_load_that_can_be_carried_and_its_bursts_are_served() {
    let mut world = World::new(10, 50 * MS);
    for second in 0..10 {
        (0..64).for_each(|_| world.arrive());
        world.run((second + 1) * 1_000 * MS, 100);
    }
    assert_eq!(world.turned_away.len(), 0);
}

#[test]
fn a_great_burst_empties_by_itself() {
    let mut world = World::new(10, 50 * MS);
    (0..800).for_each(|_| world.arrive());
    world.run(5_000 * MS, 0);
    assert_eq!((world.served.len(), world.turned_away.len()), (800, 0));
}

#[test]
fn a_slow_program_is_waited_for() {
    // Three clients, of which one is answered at a time.
    let mut world = World::new(1, 4_000 * MS);
    for round in 1..20 {
        while world.queue.len() + world.in_flight.len() < 3 {
            world.arrive();
        }
        world.run(round * 4_000 * MS + 1, 0);
    }
    assert_eq!(world.turned_away.len(), 0);
}

#[test]
fn nobody_is_turned_away_while_an_instance_starts_and_the_wait_for_it_doesnt_count() {
    let mut world = World::new(10, 50 * MS);
    world.starting = true;
    world.run(5_000 * MS, 400);
    assert_eq!(world.turned_away.len(), 0);
    assert!(world.queue.len() > 900);
    (world.starting, world.places) = (false, 40);
    world.shedder.admitted(world.now);
    world.dispatch();
    world.run(10_000 * MS, 400);
    assert_eq!((world.turned_away.len(), world.queue.len()), (0, 0));
}

#[test]
fn who_is_turned_away_comes_back_at_different_times() {
    let times: Vec<u64> = (0..4).map(|number| come_again(number).as_secs()).collect();
    assert_eq!(times, [1, 2, 3, 1]);
}
