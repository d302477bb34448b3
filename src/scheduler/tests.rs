//! The scheduler against the rules of RFC 8290 and RFC 8289, under virtual time.
#![expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::codel::{INTERVAL, TARGET};
use super::*;

const MS: Duration = Duration::from_millis(1);
const PACKET: usize = 1500;

fn packet(flow: u64, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(12)];
    bytes[..8].copy_from_slice(&flow.to_be_bytes());
    bytes[8..12].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn flow_of(waiting: &Waiting) -> u64 {
    u64::from_be_bytes(waiting.bytes[..8].try_into().expect("eight bytes"))
}

fn number_of(waiting: &Waiting) -> u32 {
    u32::from_be_bytes(waiting.bytes[8..12].try_into().expect("four bytes"))
}

fn take(scheduler: &mut Scheduler, now: Instant) -> Option<Waiting> {
    scheduler.dequeue(now, &mut |_| false)
}

/// Offers packets of one flow at `offered` bytes a second to a link of `rate` bytes a second for a while; returns how long
/// each packet that left had waited.
fn run(
    scheduler: &mut Scheduler,
    start: Instant,
    lasting: Duration,
    offered: f64,
    rate: f64,
    unit: usize,
) -> Vec<Duration> {
    let (mut next_in, mut next_out) = (Duration::ZERO, Duration::ZERO);
    let mut sojourns = Vec::new();
    let segments = u16::try_from(unit.div_ceil(PACKET)).expect("few");
    while next_in.min(next_out) < lasting {
        if next_in <= next_out {
            scheduler.enqueue(1, packet(1, 0, unit), segments, start + next_in);
            next_in += Duration::from_secs_f64(unit as f64 / offered);
        } else {
            let now = start + next_out;
            let left = take(scheduler, now).map(|waiting| {
                sojourns.push(now - waiting.since);
                waiting.bytes.len() * usize::from(waiting.left()) / usize::from(waiting.segments)
            });
            next_out += Duration::from_secs_f64(left.unwrap_or(PACKET / 4) as f64 / rate);
        }
    }
    sojourns
}

#[test]
fn what_comes_in_goes_out_in_order_and_nothing_is_dropped_below_the_target() {
    let (mut scheduler, start) = (Scheduler::default(), Instant::now());
    for number in 0..100 {
        scheduler.enqueue(1, packet(1, number, PACKET), 1, start);
    }
    for number in 0..100 {
        assert_eq!(take(&mut scheduler, start + 4 * MS).map(|waiting| number_of(&waiting)), Some(number));
    }
    assert!(take(&mut scheduler, start + 4 * MS).is_none() && scheduler.is_empty());
    assert_eq!((scheduler.bytes, scheduler.dropped()), (0, Dropped::default()));
    assert_eq!(scheduler.most_bytes(), 100 * PACKET);
}

#[test]
fn flows_share_the_link_equally_in_bytes() {
    let (mut scheduler, now) = (Scheduler::default(), Instant::now());
    for number in 0..300 {
        scheduler.enqueue(1, packet(1, number, PACKET), 1, now);
        for part in 0..5 {
            scheduler.enqueue(2, packet(2, 5 * number + part, PACKET / 5), 1, now);
        }
    }
    let mut bytes = HashMap::new();
    for _ in 0..900 {
        let waiting = take(&mut scheduler, now).expect("a packet");
        *bytes.entry(flow_of(&waiting)).or_insert(0) += waiting.bytes.len();
    }
    assert!(bytes[&1].abs_diff(bytes[&2]) <= 2 * PACKET, "{bytes:?}");
}

#[test]
fn a_flow_that_begins_goes_before_those_that_wait() {
    let (mut scheduler, now) = (Scheduler::default(), Instant::now());
    for flow in 1..=3 {
        for number in 0..50 {
            scheduler.enqueue(flow, packet(flow, number, PACKET), 1, now);
        }
    }
    for _ in 0..10 {
        take(&mut scheduler, now).expect("a packet");
    }
    scheduler.enqueue(9, packet(9, 0, 84), 1, now);
    let position = (0..).find(|_| take(&mut scheduler, now).is_some_and(|waiting| flow_of(&waiting) == 9));
    assert!(position.expect("it leaves") <= 1, "{position:?}");
}

#[test]
fn a_flow_that_is_always_short_does_not_starve_the_others() {
    let (mut scheduler, now) = (Scheduler::default(), Instant::now());
    for number in 0..100 {
        scheduler.enqueue(1, packet(1, number, PACKET), 1, now);
    }
    let mut bulk = 0;
    for number in 0..100 {
        // Never more than one waits: without the rule about emptied flows it would be new for ever.
        scheduler.enqueue(2, packet(2, number, PACKET), 1, now);
        for _ in 0..2 {
            bulk += usize::from(take(&mut scheduler, now).is_some_and(|waiting| flow_of(&waiting) == 1));
        }
    }
    assert!(bulk >= 90, "{bulk}");
}

#[test]
fn a_standing_queue_is_cut_down_to_the_target() {
    for unit in [PACKET, 16 * PACKET] {
        let (mut scheduler, start) = (Scheduler::default(), Instant::now());
        // A flow that yields to loss: what is dropped is offered less.
        let (mut offered, rate, mut now) = (30e6, 25e6, start);
        let mut last = Vec::new();
        for _ in 0..200 {
            let before = scheduler.dropped().delayed;
            last = run(&mut scheduler, now, 100 * MS, offered, rate, unit);
            now += 100 * MS;
            offered = if scheduler.dropped().delayed > before { rate * 0.9 } else { offered * 1.01 };
        }
        last.sort();
        assert!(scheduler.dropped().delayed > 0);
        assert!(last[last.len() / 2] <= 3 * TARGET, "{:?} with {unit} bytes", last[last.len() / 2]);
    }
}

#[test]
fn drops_come_faster_while_a_queue_does_not_yield() {
    let (mut scheduler, start) = (Scheduler::default(), Instant::now());
    let mut counts = Vec::new();
    for second in 0..5u32 {
        let before = scheduler.dropped().delayed;
        run(&mut scheduler, start + second * Duration::from_secs(1), Duration::from_secs(1), 2.2e6, 2e6, PACKET);
        counts.push(scheduler.dropped().delayed - before);
    }
    assert!(counts.is_sorted() && counts[4] > 2 * counts[0].max(1), "{counts:?}");
}

#[test]
fn a_burst_shorter_than_the_interval_is_not_dropped() {
    let (mut scheduler, start) = (Scheduler::default(), Instant::now());
    for number in 0..90 {
        scheduler.enqueue(1, packet(1, number, PACKET), 1, start);
    }
    let left = (1..).map_while(|ms| take(&mut scheduler, start + ms * MS)).count();
    assert_eq!((left, scheduler.dropped().delayed), (90, 0));
    assert!(90 * MS < INTERVAL);
}

#[test]
fn a_super_packet_loses_packets_and_not_all_of_them() {
    let (mut scheduler, start) = (Scheduler::default(), Instant::now());
    let mut shed = 0;
    let mut left = 0;
    for step in 0..400u32 {
        let now = start + step * 10 * MS;
        scheduler.enqueue(1, packet(1, 2 * step, 40 * PACKET), 40, now);
        scheduler.enqueue(1, packet(1, 2 * step + 1, 40 * PACKET), 40, now);
        if step > 3
            && let Some(waiting) = take(&mut scheduler, now)
        {
            shed += u64::from(waiting.shed);
            left += 1;
        }
    }
    let Dropped { delayed, .. } = scheduler.dropped();
    assert!(shed > 100 && left > 390, "{shed} of {left}");
    assert!(delayed >= shed);
}

#[test]
fn a_packet_that_can_be_marked_is_marked_and_not_dropped() {
    let (mut scheduler, start) = (Scheduler::default(), Instant::now());
    let (mut marked, mut left) = (0, 0);
    for step in 0..1000u32 {
        let now = start + step * MS;
        scheduler.enqueue(1, packet(1, step, PACKET), 1, now);
        if step > 20
            && let Some(waiting) = scheduler.dequeue(now, &mut |_| {
                marked += 1;
                true
            })
        {
            assert_eq!(number_of(&waiting), left, "none is missing");
            left += 1;
        }
    }
    assert!(marked > 5 && scheduler.dropped().delayed == 0, "{marked}");
}

#[test]
fn the_fattest_flow_loses_its_oldest_when_there_is_no_room() {
    let (mut scheduler, now) = (Scheduler::default(), Instant::now());
    scheduler.enqueue(2, packet(2, 0, 100), 1, now);
    for number in 0..4000 {
        scheduler.enqueue(1, packet(1, number, PACKET), 1, now);
        assert!(scheduler.bytes <= MAX_BYTES);
    }
    assert!(scheduler.dropped().overflowed >= 1000 && scheduler.is_full());
    let thin = take(&mut scheduler, now).expect("a packet");
    assert_eq!(flow_of(&thin), 2);
    let oldest = take(&mut scheduler, now).expect("a packet");
    assert!(number_of(&oldest) > 0, "the newest stay");
}

#[test]
fn small_packets_are_capped_by_their_number() {
    let (mut scheduler, now) = (Scheduler::default(), Instant::now());
    for number in 0..3 * MAX_WAITING as u32 {
        scheduler.enqueue(u64::from(number), packet(1, number, 40), 1, now);
    }
    assert!(scheduler.waiting <= MAX_WAITING);
    let left = std::iter::from_fn(|| take(&mut scheduler, now)).count() as u64;
    assert_eq!(left + scheduler.dropped().overflowed, 3 * MAX_WAITING as u64);
}

proptest! {
    /// Whatever comes and goes: the order within a flow is kept, nothing comes twice, what is missing is counted, and the
    /// sums are right.
    #[test]
    fn nothing_is_lost_uncounted_or_out_of_order(
        steps in proptest::collection::vec((0u64..6, 12usize..70_000, 0u32..40, 0usize..4), 1..400),
    ) {
        let (mut scheduler, mut now) = (Scheduler::default(), Instant::now());
        let mut next_in = HashMap::new();
        let mut last_out = HashMap::new();
        let (mut offered, mut left) = (0, 0);
        let mut check = |waiting: &Waiting| -> Result<(), TestCaseError> {
            let number = number_of(waiting);
            let last = last_out.insert(flow_of(waiting), number);
            prop_assert!(last.is_none_or(|last| last < number));
            prop_assert!(waiting.left() >= 1);
            left += u64::from(waiting.left()) ;
            Ok(())
        };
        for (flow, len, wait, takes) in steps {
            now += wait * MS;
            let number = next_in.entry(flow).or_insert(0);
            let segments = u16::try_from(len.div_ceil(PACKET)).expect("few");
            scheduler.enqueue(flow, packet(flow, *number, len), segments, now);
            *number += 1;
            offered += u64::from(segments);
            for _ in 0..takes {
                if let Some(waiting) = take(&mut scheduler, now) {
                    check(&waiting)?;
                }
            }
            prop_assert!(scheduler.bytes <= MAX_BYTES);
            let sum: usize = scheduler.flows.iter().map(|flow| flow.bytes).sum();
            let count: usize = scheduler.flows.iter().map(|flow| flow.waiting.len()).sum();
            prop_assert_eq!((sum, count), (scheduler.bytes, scheduler.waiting));
        }
        while let Some(waiting) = take(&mut scheduler, now) {
            check(&waiting)?;
        }
        let Dropped { delayed, overflowed } = scheduler.dropped();
        prop_assert_eq!(offered, left + delayed + overflowed);
        prop_assert!(scheduler.is_empty() && scheduler.bytes == 0);
    }

    /// With any lengths, flows that always have something waiting get shares that differ by no more than their longest
    /// packet and a quantum.
    #[test]
    fn every_flow_gets_its_share(lens in proptest::collection::vec(40usize..3000, 2..8)) {
        let (mut scheduler, now) = (Scheduler::default(), Instant::now());
        let mut sent = vec![0usize; lens.len()];
        let fill = |scheduler: &mut Scheduler, flow: usize| {
            scheduler.enqueue(flow as u64, packet(flow as u64, 0, lens[flow]), 1, now);
        };
        for flow in 0..lens.len() {
            (0..50).for_each(|_| fill(&mut scheduler, flow));
        }
        for _ in 0..2000 {
            let waiting = take(&mut scheduler, now).expect("a packet");
            let flow = usize::try_from(flow_of(&waiting)).expect("few");
            sent[flow] += waiting.bytes.len();
            fill(&mut scheduler, flow);
        }
        let (least, most) = (sent.iter().min().expect("some"), sent.iter().max().expect("some"));
        prop_assert!(most - least <= 2 * (3000 + 1514), "{sent:?}");
    }
}
