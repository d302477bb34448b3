//! What has to hold for the two ends of a secure link whatever an adversary does to the messages between them and to
//! the ends themselves: see `secure_world` and `secure_end`. The same runs are made from seeds by
//! `tests/secure_adversary.rs`.

#[path = "secure_attack.rs"]
mod attack;
#[path = "secure_end.rs"]
mod end;
#[path = "secure_script.rs"]
mod script;
#[path = "secure_world.rs"]
mod world;

pub use script::Script;
pub use world::Talk;
use world::{MS, Network, SECOND, World};

/// Steps of the adversary at most.
const MAX_STEPS: u64 = 48;

/// The longest time in which nothing happens before a night.
const QUIET: u64 = 20;

/// The bytes are the choices of the adversary, and before them those of the settings.
pub fn check(data: &[u8]) {
    run(Script::new(Some(data), 0), 0, Talk::Silent, 1);
}

/// One run, from its beginning to the recovery of the link. With more than one day the adversary comes anew each day, and
/// both machines sleep in between.
pub fn run(mut script: Script<'_>, seed: u64, talk: Talk, days: u64) {
    let reliable = script.once_in(2);
    let setup = attack::setup(&mut script, reliable);
    let calm = script.once_in(16);
    let mut world = World::new(script, seed, talk, setup);
    if calm && days == 1 {
        world.recover();
        world.check_calm();
        return;
    }
    // Sometimes the two know each other before it begins.
    if !world.script.once_in(4) {
        world.pass(500 * MS);
    }
    for day in 1..=days {
        spoil(&mut world, MAX_STEPS / days.min(12));
        world.recover();
        if day < days {
            let quiet = world.script.below(QUIET) as u32 * SECOND;
            world.pass(quiet);
            world.sleep_until_day(day);
        }
    }
}

/// The adversary is at work.
fn spoil(world: &mut World<'_>, max_steps: u64) {
    world.network = Network::Hostile;
    for _ in 0..world.script.below(max_steps) {
        if world.script.is_over() {
            break;
        }
        world.attack();
    }
}
