//! `echo`: answers pings to every address behind a device, as the responder of the tun/tap tutorial does.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;

use super::attached::Attach;

mod answer;

/// Answer pings to whatever is behind a device.
#[derive(Clone, Debug, Args)]
pub struct Echo {
    #[command(flatten)]
    attach: Attach,
    /// Say what is answered
    #[arg(short, long)]
    verbose: bool,
}

impl Echo {
    /// Runs until it is asked to end.
    ///
    /// # Errors
    /// The device cannot be attached to or has ended.
    pub fn run(&self) -> Result<()> {
        let mut attached = self.attach.open()?;
        let station = answer::station(attached.hwaddr()?);
        say(&format!("Answering on device {}", attached.name()));
        let kind = attached.kind();
        while let Some(packet) = attached.next_packet()? {
            let Some(answer) = answer::answer(kind, packet, station) else { continue };
            if self.verbose {
                say(&format!("Answered {} bytes with {}", packet.len(), answer.len()));
            }
            attached.answer(&answer);
        }
        Ok(())
    }
}

/// Pings are answered whether somebody reads this or not.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
