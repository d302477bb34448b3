//! A point-to-point tunnel: a tun or tap device joined to one peer over TCP or UDP.
//!
//! A packet crosses three boxes, each entered once, none of which calls back: [`device`] (the tun or tap descriptor,
//! with [`offload`] to cut and join super-packets), [`tunnel`] (the peer's state machine, pure) and [`transport`]
//! (sockets and framing). [`relay`] moves packets between them in both directions, past the [`scheduler`] where they
//! wait for a full network; [`event_loop`] waits for readiness, deadlines and signals, and [`daemon`] builds all of
//! it from a [`config`]. [`cli`] and [`logging`] serve the binary; [`counters`] and [`fault`] are what everybody
//! counts and sorts errors with; [`memory`] keeps keys out of core files; [`sys`] holds the system calls that no
//! crate offers; [`tools`] are the subcommands. [`privileges`] is what the process gives up, and [`helper`] the second process
//! that keeps what is needed later.
//!
//! [`hint`] is what the daemon remembers across restarts; [`link_state`] what it knows about its peer, for all who report
//! it; [`segment`] what may cross between bridged LANs; [`control`] tells who watches, [`supervisor`] the service manager, and [`hooks`] the administrator's programs;
//! `bucket` limits how often something happens; [`holder`] finds who has what is wanted.
//!
//! `docs/ARCHITECTURE.md` in the repository says why it is built so.

#![warn(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo)]
#![cfg_attr(
    test,
    expect(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failing test should say what it expected"
    )
)]

mod bucket;
pub mod cli;
pub mod config;
pub mod control;
pub mod counters;
pub mod daemon;
pub mod device;
pub mod event_loop;
pub mod fault;
pub mod helper;
pub mod hint;
pub mod holder;
pub mod hooks;
pub mod link_state;
pub mod logging;
pub mod memory;
pub mod offload;
pub mod privileges;
pub mod relay;
pub mod scheduler;
pub mod segment;
pub mod supervisor;
pub mod sys;
pub mod tools;
pub mod transport;
pub mod tunnel;
