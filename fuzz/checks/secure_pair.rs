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
use world::{MS, Network, World};

/// Steps of the adversary at most.
const MAX_STEPS: u64 = 48;

/// The bytes are the choices of the adversary, and before them those of the settings.
pub fn check(data: &[u8]) {
    run(Script::new(Some(data), 0), 0, Talk::Silent);
}

/// One run from its beginning to the recovery of the link.
pub fn run(mut script: Script<'_>, seed: u64, talk: Talk) {
    let reliable = script.once_in(2);
    let setup = attack::setup(&mut script, reliable);
    let calm = script.once_in(16);
    let steps = script.below(MAX_STEPS);
    let mut world = World::new(script, seed, talk, setup);
    if calm {
        world.recover();
        world.check_calm();
        return;
    }
    // Sometimes the two know each other before it begins.
    if !world.script.once_in(4) {
        world.pass(500 * MS);
    }
    world.network = Network::Hostile;
    for _ in 0..steps {
        if world.script.is_over() {
            break;
        }
        world.attack();
    }
    world.recover();
}
