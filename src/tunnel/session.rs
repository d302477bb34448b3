//! How a message relates to a packet. A closed set: each kind of link is one variant.

/// The protection of a link.
#[derive(Debug)]
pub enum Session {
    /// A message is a packet, as the original simpletun, socat and others speak it.
    Plain,
}

impl Session {
    /// Bytes that sealing adds to a packet.
    pub fn overhead(&self) -> usize {
        match self {
            Self::Plain => 0,
        }
    }

    /// Writes the message that carries `packet`; `message` is [`overhead`](Self::overhead) bytes longer.
    pub fn seal(&mut self, packet: &[u8], message: &mut [u8]) {
        match self {
            Self::Plain => message.copy_from_slice(packet),
        }
    }

    /// Turns a message into the packet that it carries, in place.
    pub fn open<'a>(&mut self, message: &'a mut [u8]) -> &'a mut [u8] {
        match self {
            Self::Plain => message,
        }
    }
}
