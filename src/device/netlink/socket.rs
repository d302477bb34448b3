//! One rtnetlink socket: a request goes out, its answers are collected, a refusal becomes an error.
//!
//! This file knows netlink(7): sequence numbers, acknowledgements, dumps, the kernel's explanations. It must not know
//! what is asked for or changed; that is `netlink.rs` and `netchange.rs`. Every call blocks until the kernel has
//! answered, which it has done before send(2) returns, so there is no time-out.

use std::fmt;
use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

/// A blocking `NETLINK_ROUTE` socket, bound to the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct RouteSocket {
    socket: Socket,
    /// Number of the latest request; answers with another number belong to an earlier, abandoned one.
    sequence: u32,
    /// Its capacity is at least [`RECEIVE_LEN`].
    buffer: Vec<u8>,
}

/// A refusal that the kernel explained in words (`NLMSGERR_ATTR_MSG`).
///
/// Travels inside an [`io::Error`], whose `raw_os_error` is then `None`: ask [`errno_of`] instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// The error number.
    pub errno: Errno,
    /// The kernel's sentence, such as "mtu greater than device maximum".
    pub text: String,
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.text, self.errno)
    }
}

impl std::error::Error for KernelError {}

/// The error number behind an error of this module, `UnknownErrno` if it did not come from the kernel.
#[must_use]
pub fn errno_of(error: &io::Error) -> Errno {
    if let Some(raw) = error.raw_os_error() {
        return Errno::from_raw(raw);
    }
    let explained = error.get_ref().and_then(|inner| inner.downcast_ref::<KernelError>());
    explained.map_or(Errno::UnknownErrno, |kernel| kernel.errno)
}

impl RouteSocket {
    /// Opens the socket (close-on-exec) and asks for explained errors.
    ///
    /// # Errors
    ///
    /// What socket(2) and bind(2) return: `EMFILE`, `ENFILE`, `ENOMEM`, or `EPERM` and `EAFNOSUPPORT` where a sandbox
    /// forbids netlink.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // Each of these spares work or makes a message better, none is needed: older kernels refuse them.
        // Strict checking makes the kernel filter route dumps by device instead of sending the whole table.
        let options = [socket.set_ext_ack(true), socket.set_cap_ack(true), socket.set_netlink_get_strict_chk(true)];
        for refused in options.into_iter().filter_map(Result::err) {
            log::debug!("netlink option not available: {refused}");
        }
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_LEN) })
    }

    /// A question with one answer. It asks for an acknowledgement too, so that every exchange has a visible end.
    pub(super) fn ask(&mut self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        Ok(self.exchange(question, NLM_F_ACK)?.messages)
    }

    /// A question for a whole list, asked again when the list changed while it was being sent.
    pub(super) fn dump(&mut self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 1..DUMP_ATTEMPTS {
            let answer = self.exchange(question.clone(), NLM_F_DUMP)?;
            if answer.is_consistent {
                return Ok(answer.messages);
            }
        }
        // On a host where the list never rests, a list that may lack an entry is better than none.
        Ok(self.exchange(question, NLM_F_DUMP)?.messages)
    }

    /// Sends a request and waits for its acknowledgement. `flags` are the `NLM_F_*` beyond
    /// `REQUEST` and `ACK`.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, with its sentence if there is one ([`KernelError`]).
    pub(super) fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, flags | NLM_F_ACK).map(|_| ())
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&encode(message, flags | NLM_F_REQUEST, self.sequence))?;
        let mut answer = Answer { messages: Vec::new(), is_consistent: true };
        loop {
            self.receive()?;
            if answer.take_datagram(&self.buffer, self.sequence)? == Progress::Complete {
                return Ok(answer);
            }
        }
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(request, &kernel, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(|_| ()),
            }
        }
    }

    /// Fills the buffer with the next datagram of the kernel's.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, MsgFlags::MSG_TRUNC.bits()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                // Port 0 is the kernel; a process with CAP_NET_ADMIN could send us messages too.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((len, _)) if len > self.buffer.len() => {
                    return Err(invalid(format!("netlink message of {len} bytes does not fit the receive buffer")));
                }
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// The answers to one request.
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    /// False once the kernel has flagged that the list changed under the dump.
    is_consistent: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Incomplete,
    Complete,
}

impl Answer {
    /// Collects the messages of one datagram that answer request number `sequence`, up to the end mark.
    fn take_datagram(&mut self, datagram: &[u8], sequence: u32) -> io::Result<Progress> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(|error| invalid(error.to_string()))?;
            // `new_checked` has made sure of 16 <= length <= rest.len(); the last one may lack its padding.
            let (length, flags) = (message.length() as usize, message.flags());
            let bytes = rest.get(..length).unwrap_or(rest);
            rest = rest.get(align(length)..).unwrap_or_default();
            if message.sequence_number() != sequence {
                continue;
            }
            self.is_consistent &= flags & NLM_F_DUMP_INTR == 0;
            if self.take_message(bytes)? == Progress::Complete {
                return Ok(Progress::Complete);
            }
        }
        Ok(Progress::Incomplete)
    }

    fn take_message(&mut self, bytes: &[u8]) -> io::Result<Progress> {
        let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
            Ok(message) => message,
            Err(error) => {
                // An attribute of somebody else's device, newer than our parser, must not hide all the others.
                log::debug!("skipped a netlink message that cannot be read: {error}");
                return Ok(Progress::Incomplete);
            }
        };
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                self.messages.push(inner);
                Ok(Progress::Incomplete)
            }
            NetlinkPayload::Error(error) => match error.code {
                None => Ok(Progress::Complete),
                Some(_) => Err(refusal(&error, message.header.flags)),
            },
            NetlinkPayload::Done(done) if done.code < 0 => {
                Err(io::Error::from_raw_os_error(done.code.saturating_neg()))
            }
            NetlinkPayload::Done(_) => Ok(Progress::Complete),
            NetlinkPayload::Overrun(_) => Err(Errno::ENOBUFS.into()),
            _ => Ok(Progress::Incomplete),
        }
    }
}

/// A negative acknowledgement as an error, with the kernel's sentence where it gave one.
fn refusal(error: &ErrorMessage, flags: u16) -> io::Error {
    let plain = error.to_io();
    match explanation(&error.header, flags) {
        Some(text) => {
            let errno = Errno::from_raw(plain.raw_os_error().unwrap_or_default());
            io::Error::new(plain.kind(), KernelError { errno, text })
        }
        None => plain,
    }
}

/// The `NLMSGERR_ATTR_MSG` behind the echoed request. The echo is the bare header if it was capped, else all of it.
fn explanation(echo_and_attributes: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echo_len = if flags & NLM_F_CAPPED == 0 {
        let length = echo_and_attributes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
        align(usize::try_from(length).ok()?)
    } else {
        HEADER_LEN
    };
    let attributes = NlasIterator::new(echo_and_attributes.get(echo_len..)?);
    let text = attributes.filter_map(Result::ok).find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    parse_string(text.value()).ok().filter(|text| !text.is_empty())
}

fn encode(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Netlink messages and attributes start at multiples of 4 (`NLMSG_ALIGN`).
fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A dump comes in datagrams of at most 32 KiB (`netlink_recvmsg` in `net/netlink/af_netlink.c`), a single
/// device in about 2.
const RECEIVE_LEN: usize = 64 * 1024;
/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// How often a list is asked for while it keeps changing.
const DUMP_ATTEMPTS: u32 = 4;
/// include/uapi/linux/netlink.h, `enum nlmsgerr_attrs`.
const NLMSGERR_ATTR_MSG: u16 = 1;

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    const SEQUENCE: u32 = 7;

    #[test]
    fn a_request_carries_its_length_flags_and_number() {
        let bytes = encode(RouteNetlinkMessage::GetLink(link_question(3)), NLM_F_REQUEST | NLM_F_ACK, SEQUENCE);
        assert_eq!(bytes.len(), 32);
        let message = NetlinkBuffer::new_checked(&bytes).unwrap();
        assert_eq!((message.length(), message.message_type(), message.flags()), (32, 18, 5));
        assert_eq!((message.sequence_number(), message.port_number()), (SEQUENCE, 0));
        assert_eq!(bytes[20..24], 3u32.to_ne_bytes());
    }

    #[test]
    fn a_refusal_keeps_errno_and_sentence() {
        let error =
            take(&nack(22, NLM_F_CAPPED | NLM_F_ACK_TLVS, Some("mtu greater than device maximum"))).unwrap_err();
        assert_eq!(errno_of(&error), Errno::EINVAL);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), "mtu greater than device maximum (EINVAL)");
    }

    #[test]
    fn a_refusal_without_sentence_is_the_plain_errno() {
        let error = take(&nack(1, NLM_F_CAPPED, None)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1));
        assert_eq!(errno_of(&error), Errno::EPERM);
    }

    #[test]
    fn the_sentence_is_found_behind_an_echo_that_was_not_capped() {
        let error = take(&nack(22, NLM_F_ACK_TLVS, Some("no"))).unwrap_err();
        assert_eq!(error.to_string(), "no (EINVAL)");
    }

    #[test]
    fn an_error_of_our_own_has_no_errno() {
        assert_eq!(errno_of(&invalid(String::new())), Errno::UnknownErrno);
    }

    #[test]
    fn answers_to_an_earlier_request_are_skipped() {
        let mut answer = Answer { messages: Vec::new(), is_consistent: true };
        let progress = answer.take_datagram(&nack(1, 0, None), SEQUENCE + 1).unwrap();
        assert!(progress == Progress::Incomplete && answer.messages.is_empty());
    }

    #[test]
    fn cut_off_datagrams_are_errors_or_incomplete_but_never_panic() {
        let whole = nack(22, NLM_F_ACK_TLVS, Some("reason"));
        for len in 1..whole.len() {
            assert!(take(&whole[..len]).is_err(), "{len} bytes");
        }
        assert!(take(&[]).unwrap() == Progress::Incomplete);
    }

    #[test]
    fn a_message_that_cannot_be_read_does_not_hide_the_next() {
        let mut datagram = encode(RouteNetlinkMessage::NewLink(link_question(1)), 0, SEQUENCE);
        datagram[4] = 0xff;
        datagram.extend(encode(RouteNetlinkMessage::NewLink(link_question(2)), NLM_F_DUMP_INTR, SEQUENCE));
        let mut answer = Answer { messages: Vec::new(), is_consistent: true };
        assert!(answer.take_datagram(&datagram, SEQUENCE).unwrap() == Progress::Incomplete);
        let indexes: Vec<u32> = answer.messages.iter().filter_map(index_of).collect();
        assert_eq!(indexes, [2]);
        assert!(!answer.is_consistent);
    }

    fn index_of(message: &RouteNetlinkMessage) -> Option<u32> {
        match message {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        }
    }

    fn take(datagram: &[u8]) -> io::Result<Progress> {
        Answer { messages: Vec::new(), is_consistent: true }.take_datagram(datagram, SEQUENCE)
    }

    /// A negative acknowledgement as the kernel lays it out: header, code, echo, attributes.
    fn nack(errno: i32, flags: u16, text: Option<&str>) -> Vec<u8> {
        let request = encode(RouteNetlinkMessage::GetLink(link_question(1)), 0, SEQUENCE);
        let echo_len = if flags & NLM_F_CAPPED == 0 { request.len() } else { HEADER_LEN };
        let mut payload = (-errno).to_ne_bytes().to_vec();
        payload.extend(&request[..echo_len]);
        if let Some(text) = text {
            payload.extend(u16::try_from(text.len() + 5).unwrap().to_ne_bytes());
            payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
            payload.extend(text.as_bytes());
            payload.resize(align(payload.len() + 1), 0);
        }
        let mut bytes = u32::try_from(HEADER_LEN + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(SEQUENCE.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    fn link_question(index: u32) -> LinkMessage {
        let mut question = LinkMessage::default();
        question.header.index = index;
        question
    }
}
