//! Two meters under virtual time, joined by a wire that the test holds in its hands, and peers that do what they should not.

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const LEN: usize = 1400;
const ID: u64 = u64::MAX - 1;
const PLAN: Plan = Plan { time: Duration::from_secs(1), kbit: 8000 };

/// What an end has sent, and when it arrives.
type Pipe = VecDeque<(Instant, Control)>;

struct Ends {
    here: Meter,
    there: Meter,
    to_there: Pipe,
    to_here: Pipe,
    reliable: bool,
    now: Instant,
}

impl Ends {
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn new(reliable: bool) -> Self {
        let (here, there) = (Meter::default(), Meter::default());
        Self { here, there, to_there: Pipe::new(), to_here: Pipe::new(), reliable, now: Instant::now() }
    }

    /// Lets time pass; `passes` says of each message whether it arrives, 10 ms later.
    fn run(&mut self, time: Duration, passes: &mut dyn FnMut(&Control) -> bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += MS / 2;
            let now = self.now;
            turn(&mut self.here, &mut self.to_here, &mut self.to_there, self.reliable, now, passes);
            turn(&mut self.there, &mut self.to_there, &mut self.to_here, self.reliable, now, passes);
        }
    }

    fn news(&mut self) -> Vec<News> {
        std::iter::from_fn(|| self.here.poll_news()).collect()
    }
}

/// What one end does at a moment.
fn turn(
    meter: &mut Meter,
    into: &mut Pipe,
    out: &mut Pipe,
    reliable: bool,
    now: Instant,
    passes: &mut dyn FnMut(&Control) -> bool,
) {
    let mut answers = Pipe::new();
    while let Some((_, control)) = into.pop_front_if(|(at, _)| *at <= now) {
        handle(meter, control, reliable, &mut answers, now);
    }
    if meter.deadline().is_some_and(|at| at <= now) {
        meter.handle_timeout(now);
        assert!(meter.deadline().is_none_or(|at| at > now), "a deadline that does not pass: {meter:?}");
    }
    let loads = std::iter::from_fn(|| meter.next_load(LEN, now)).take(40);
    let mut said: Vec<Control> = loads.map(Control::Measure).collect();
    said.extend(std::iter::from_fn(|| meter.poll_transmit()));
    said.extend(answers.into_iter().map(|(_, answer)| answer));
    out.extend(said.into_iter().filter(|control| passes(control)).map(|control| (now + 10 * MS, control)));
}

fn handle(meter: &mut Meter, control: Control, reliable: bool, out: &mut Pipe, now: Instant) {
    match control {
        Control::Ping { token, len } => {
            out.push_back((now + 10 * MS, Control::Pong { token, size: len as u16 }));
        }
        Control::Pong { token, .. } => drop(meter.handle_pong(token, now)),
        Control::Measure(message) => meter.handle(message, reliable, now),
        Control::Empty | Control::Close(_) | Control::Unknown => {}
    }
}

fn said(meter: &mut Meter) -> Vec<Message> {
    let controls = std::iter::from_fn(|| meter.poll_transmit());
    controls.filter_map(|control| if let Control::Measure(message) = control { Some(message) } else { None }).collect()
}

fn is_idle(meter: &Meter) -> bool {
    matches!(meter.activity, Activity::Idle)
}

#[test]
fn round_trip_and_both_directions_are_measured_and_both_ends_are_free_again() {
    for reliable in [false, true] {
        let mut ends = Ends::new(reliable);
        ends.here.start(ID, PLAN, reliable, ends.now).expect("nothing is under way");
        assert_eq!(ends.here.start(7, PLAN, reliable, ends.now), Err(Refusal::Busy));
        ends.run(8 * SECOND, &mut |_| true);
        let news = ends.news();
        let [News::RoundTrip(trip), News::Download(down), News::Upload(up), News::Finished] = news[..] else {
            panic!("{news:?}")
        };
        assert_eq!((trip.sent, trip.answered), (20, 20));
        assert!((20 * MS..22 * MS).contains(&trip.mean), "{trip:?}");
        for carried in [down, up] {
            assert_eq!((carried.sent, carried.count.swapped), (carried.count.received, 0), "{carried:?}");
            assert!((7_000_000..8_400_000).contains(&carried.count.rate), "{carried:?}");
        }
        assert!(is_idle(&ends.here) && is_idle(&ends.there) && ends.here.deadline().is_none());
    }
}

#[test]
fn what_is_lost_is_counted_whatever_it_was() {
    let mut ends = Ends::new(false);
    ends.here.start(ID, PLAN, false, ends.now).expect("nothing is under way");
    let mut number = 0;
    // Every fifth, of all kinds: pings, wishes, loads, reports, ends.
    ends.run(20 * SECOND, &mut |_| {
        number += 1;
        number % 5 != 0
    });
    let news = ends.news();
    let [News::RoundTrip(trip), News::Download(down), News::Upload(up), News::Finished] = news[..] else {
        panic!("{news:?}")
    };
    assert!((1..20).contains(&trip.answered), "{trip:?}");
    for carried in [down, up] {
        let loss = 1.0 - f64::from(carried.count.received) / f64::from(carried.sent);
        assert!((0.1..0.3).contains(&loss), "{carried:?}");
    }
    assert!(is_idle(&ends.here) && is_idle(&ends.there));
}

#[test]
fn an_end_that_is_older_or_gone_is_named() {
    let mut ends = Ends::new(false);
    ends.here.start(ID, PLAN, false, ends.now).expect("nothing is under way");
    ends.run(10 * SECOND, &mut |control| !matches!(control, Control::Measure(_)));
    assert!(matches!(ends.news()[..], [News::RoundTrip(_), News::Failed(Failure::NotKnown)]));
    ends.here.start(ID, PLAN, false, ends.now).expect("nothing is under way");
    ends.run(10 * SECOND, &mut |_| false);
    assert_eq!(ends.news(), [News::Failed(Failure::NoAnswer)]);
    ends.here.start(ID, PLAN, false, ends.now).expect("nothing is under way");
    ends.run(3 * SECOND / 2, &mut |_| true);
    ends.here.handle_down();
    ends.there.handle_down();
    assert!(matches!(ends.news()[..], [News::RoundTrip(_), News::Failed(Failure::LinkDown)]));
    assert!(is_idle(&ends.here) && is_idle(&ends.there));
}

#[test]
fn who_gives_up_ends_the_load_of_the_other() {
    let mut ends = Ends::new(true);
    ends.here.start(ID, PLAN, true, ends.now).expect("nothing is under way");
    ends.run(3 * SECOND / 2, &mut |_| true);
    assert!(ends.there.is_loading(), "{:?}", ends.there);
    ends.here.stop();
    ends.run(50 * MS, &mut |_| true);
    assert!(is_idle(&ends.here) && is_idle(&ends.there) && !ends.here.has_news());
}

#[test]
fn one_measurement_at_a_time_and_so_much_in_a_minute() {
    let mut ends = Ends::new(false);
    let (now, there) = (ends.now, &mut ends.there);
    let ask = |id, time| Message::Ask { id, way: Way::Back, time, kbit: 0 };
    let mut verdict = |id, time, now| {
        there.handle(ask(id, time), false, now);
        match said(there)[..] {
            [Message::Grant { verdict, time, .. }] => (verdict, time),
            ref other => panic!("{other:?}"),
        }
    };
    // However long is asked for, and once more because the answer was lost.
    assert_eq!(verdict(1, 60 * SECOND, now), (Verdict::Granted, MAX_TIME));
    assert_eq!(verdict(1, 60 * SECOND, now).0, Verdict::Granted);
    let granted = (2..100).filter(|id| verdict(*id, MAX_TIME, now).0 == Verdict::Granted).count();
    assert_eq!(granted, 3, "40 s in all");
    assert_eq!(verdict(200, MS, now + 59 * SECOND).0, Verdict::Enough);
    assert_eq!(verdict(201, MAX_TIME, now + 60 * SECOND).0, Verdict::Granted);

    ends.here.start(ID, PLAN, false, now).expect("nothing is under way");
    let _ = said(&mut ends.here);
    ends.here.handle(ask(1, SECOND), false, now);
    assert!(matches!(said(&mut ends.here)[..], [Message::Grant { verdict: Verdict::Busy, .. }]));
}

#[test]
fn a_load_that_nobody_reports_on_ends_soon_and_what_nobody_asked_for_is_nothing() {
    let mut ends = Ends::new(false);
    let (start, count) = (ends.now, Count { received: 5, next: 5, ..Count::default() });
    for stray in [
        Message::Load { id: 1, sequence: 0, len: LEN },
        Message::Report { id: 1, last: true, count },
        Message::End { id: 1, sent: 9 },
        Message::Grant { id: 1, verdict: Verdict::Granted, time: SECOND },
    ] {
        ends.there.handle(stray, false, start);
        assert!(is_idle(&ends.there) && said(&mut ends.there).is_empty() && ends.there.deadline().is_none());
    }
    ends.there.handle(Message::Ask { id: 1, way: Way::Back, time: MAX_TIME, kbit: 0 }, false, start);
    let mut sent = 0;
    // Whoever has asked has gone, or lies about what has come.
    ends.run(9 * SECOND, &mut |control| {
        sent += u32::from(matches!(control, Control::Measure(Message::Load { .. })));
        false
    });
    assert!(is_idle(&ends.there), "{:?}", ends.there);
    assert!((16..=16 * 12).contains(&sent), "{sent}");
}

#[test]
fn wild_reports_and_loads_break_nothing() {
    let mut ends = Ends::new(false);
    let now = ends.now;
    ends.there.handle(Message::Ask { id: 1, way: Way::Back, time: SECOND, kbit: 0 }, false, now);
    let loads = std::iter::from_fn(|| ends.there.next_load(LEN, now)).count();
    let wild = Count { received: u32::MAX, next: u32::MAX, swapped: u32::MAX, bytes: u64::MAX, rate: u64::MAX };
    for _ in 0..100 {
        ends.there.handle(Message::Report { id: 1, last: true, count: wild }, false, now);
        ends.there.handle(Message::Load { id: 1, sequence: 3, len: LEN }, false, now);
    }
    assert_eq!((ends.there.next_load(LEN, now), loads), (None, 16), "no window is opened");
    assert!(ends.there.is_loading());
    ends.there.handle(Message::Ask { id: 2, way: Way::Forth, time: SECOND, kbit: 0 }, false, now);
    let _ = said(&mut ends.there);
    for sequence in [u32::MAX, 0, u32::MAX, 7] {
        ends.there.handle(Message::Load { id: 2, sequence, len: usize::MAX >> 8 }, false, now);
    }
    ends.run(10 * SECOND, &mut |_| false);
    assert!(is_idle(&ends.there), "given up");
}
