//! System calls that no crate offers in the form needed here: several datagrams in one call, with their
//! control messages, without allocation, socket options, descriptors of processes, descriptors that come with a
//! message, and the state of the clock. The second and last file with unsafe code.
//!
//! Addresses and control messages are written and read as bytes in their kernel layout, so that only the calls
//! themselves are unsafe. It knows nothing of tunnels.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use byteorder::{BigEndian, ByteOrder, NativeEndian};
use nix::sys::socket::{self, ControlMessage, ControlMessageOwned, MsgFlags};
use socket2::SockAddr;

/// Datagrams, or trains of equal datagrams, that one call can receive.
pub const RECEIVE_BATCH: usize = 8;

/// Room for one datagram or train, in bytes: no IP datagram is longer.
const DATAGRAM_CAPACITY: usize = 65_536;

/// `cmsg(3)`: each control message and its data are aligned to the machine word.
const CONTROL_ALIGN: usize = mem::size_of::<usize>();
const CONTROL_HEADER_LEN: usize = mem::size_of::<libc::cmsghdr>();

/// Room for a packet information of either family and a segment size.
const CONTROL_CAPACITY: usize = 2 * (CONTROL_HEADER_LEN + CONTROL_ALIGN) + IPV6_PACKET_INFO_LEN + 8;

/// `struct in_pktinfo` (ip(7)): interface index, local address, header destination.
const IPV4_PACKET_INFO_LEN: usize = 12;
/// `struct in6_pktinfo` (RFC 3542): address, interface index.
const IPV6_PACKET_INFO_LEN: usize = 20;

const ADDRESS_CAPACITY: usize = mem::size_of::<libc::sockaddr_storage>();

const _: () = assert!(CONTROL_HEADER_LEN.is_multiple_of(CONTROL_ALIGN));

/// Bytes with the alignment that the kernel's structures ask for.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Aligned<const LEN: usize>([u8; LEN]);

/// What is known about a received datagram beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The sender, in the form of the socket's family (IPv4 as `::ffff:a.b.c.d` on an IPv6 socket).
    pub source: SocketAddr,
    /// The local address that it was sent to, if packet information is on.
    pub local: Option<IpAddr>,
    /// The index of the interface that it arrived on; 0 if packet information is off.
    pub interface: u32,
    /// For a train made by UDP_GRO the length of each datagram but the last, in bytes.
    pub segment: Option<usize>,
}

/// The buffers of [`receive`]; allocated once.
pub struct ReceiveBatch {
    buffers: Box<[u8]>,
    addresses: [Aligned<ADDRESS_CAPACITY>; RECEIVE_BATCH],
    controls: [Aligned<CONTROL_CAPACITY>; RECEIVE_BATCH],
    lengths: [Lengths; RECEIVE_BATCH],
}

#[derive(Clone, Copy, Default)]
struct Lengths {
    data: usize,
    address: usize,
    control: usize,
    truncated: bool,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self {
            buffers: vec![0; RECEIVE_BATCH * DATAGRAM_CAPACITY].into_boxed_slice(),
            addresses: [Aligned([0; ADDRESS_CAPACITY]); RECEIVE_BATCH],
            controls: [Aligned([0; CONTROL_CAPACITY]); RECEIVE_BATCH],
            lengths: [Lengths::default(); RECEIVE_BATCH],
        }
    }
}

impl ReceiveBatch {
    /// The datagrams of the last [`receive`] from number `start` up to `end`: arrival and bytes, or `None` for one that
    /// was cut off by the kernel or has no internet address as its source.
    pub fn datagrams(&mut self, start: usize, end: usize) -> impl Iterator<Item = Option<(Arrival, &mut [u8])>> {
        let buffers = self.buffers.chunks_exact_mut(DATAGRAM_CAPACITY);
        let headers = self.addresses.iter().zip(&self.controls).zip(&self.lengths);
        let all = buffers.zip(headers).take(end).skip(start);
        all.map(|(buffer, ((address, control), lengths))| {
            let source = parse_address(address.0.get(..lengths.address)?)?;
            let mut arrival = Arrival { source, local: None, interface: 0, segment: None };
            parse_control(control.0.get(..lengths.control)?, &mut arrival);
            let bytes = buffer.get_mut(..lengths.data)?;
            (!lengths.truncated).then_some((arrival, bytes))
        })
    }
}

/// Receives up to [`RECEIVE_BATCH`] datagrams without blocking (recvmmsg(2)) and returns how many.
///
/// # Errors
/// Those of recvmmsg(2); `EAGAIN` if there is nothing, and errors that past sends left on the socket.
pub fn receive(socket: BorrowedFd<'_>, batch: &mut ReceiveBatch) -> io::Result<usize> {
    // SAFETY: mmsghdr and iovec are plain C structures of integers and pointers, for which all zeros is a valid value.
    let mut headers: [libc::mmsghdr; RECEIVE_BATCH] = unsafe { mem::zeroed() };
    let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVE_BATCH];
    let buffers = batch.buffers.chunks_exact_mut(DATAGRAM_CAPACITY);
    let rooms = buffers.zip(&mut batch.addresses).zip(&mut batch.controls);
    for ((header, vector), ((buffer, address), control)) in headers.iter_mut().zip(&mut vectors).zip(rooms) {
        *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let header = &mut header.msg_hdr;
        header.msg_iov = ptr::from_mut(vector);
        header.msg_iovlen = 1;
        header.msg_name = address.0.as_mut_ptr().cast();
        header.msg_namelen = ADDRESS_CAPACITY as libc::socklen_t;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_CAPACITY as _;
    }
    // SAFETY: `headers` is an array of RECEIVE_BATCH initialised headers; every pointer in it names a live buffer that
    // nothing else uses until the call returns and whose length stands beside it; a null timeout is allowed.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            RECEIVE_BATCH as libc::c_uint,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?.min(RECEIVE_BATCH);
    for (lengths, header) in batch.lengths.iter_mut().zip(&headers) {
        *lengths = Lengths {
            // Bounded here although the kernel wrote them: they index buffers later.
            data: (header.msg_len as usize).min(DATAGRAM_CAPACITY),
            address: (header.msg_hdr.msg_namelen as usize).min(ADDRESS_CAPACITY),
            #[allow(clippy::unnecessary_cast, reason = "the field's type differs between C libraries")]
            control: (header.msg_hdr.msg_controllen as usize).min(CONTROL_CAPACITY),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
    }
    Ok(count)
}

/// Datagrams to be sent in one call.
#[derive(Clone, Copy, Debug)]
pub struct Departure<'a> {
    /// One datagram, or several of equal length laid side by side (the last may be shorter).
    pub bytes: &'a [u8],
    /// Where to; `None` on a connected socket. In the form of the socket's family.
    pub to: Option<SocketAddr>,
    /// The local address to send from; `None` lets the route decide. In the form of the socket's family.
    pub from: Option<IpAddr>,
    /// Length of each datagram if `bytes` are several (`UDP_SEGMENT`, udp(7)).
    pub segment: Option<u16>,
}

/// Sends datagrams without blocking (sendmsg(2)).
///
/// # Errors
/// Those of sendmsg(2); `EAGAIN` if the socket's buffer is full, and for several datagrams `EINVAL` if one does not
/// fit the path's MTU and `EIO` if the interface cannot do it.
pub fn send(socket: BorrowedFd<'_>, departure: &Departure<'_>) -> io::Result<()> {
    let mut control = ControlWriter::default();
    match departure.from {
        Some(IpAddr::V4(from)) => control.push_ipv4_source(from),
        Some(IpAddr::V6(from)) => control.push_ipv6_source(from),
        None => {}
    }
    if let Some(segment) = departure.segment {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    let address = departure.to.map(SockAddr::from);
    let mut vector =
        libc::iovec { iov_base: departure.bytes.as_ptr().cast_mut().cast(), iov_len: departure.bytes.len() };
    // SAFETY: msghdr is a plain C structure of integers and pointers, for which all zeros is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if let Some(address) = &address {
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = address.len();
    }
    if control.len > 0 {
        header.msg_control = control.bytes.0.as_mut_ptr().cast();
        header.msg_controllen = control.len as _;
    }
    loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: every pointer in `header` names a live buffer whose length stands beside it; sendmsg reads them only,
        // so those made from shared references are not written to.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Lets the IP layer fragment datagrams that are longer than the path's MTU and never sets the DF bit (ip(7) and
/// ipv6(7), `IP_PMTUDISC_DONT`).
///
/// # Errors
/// Those of setsockopt(2).
pub fn allow_fragmentation(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    // An IPv6 socket carries IPv4 too, and takes the options of both.
    set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    if is_ipv6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
    }
    Ok(())
}

/// Sets the DF bit of every datagram, whatever the kernel believes about the path (ip(7) and ipv6(7),
/// `IP_PMTUDISC_PROBE`): what is longer than the interface takes is refused, and forged ICMP changes nothing.
///
/// # Errors
/// Those of setsockopt(2).
pub fn forbid_fragmentation(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    if is_ipv6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    Ok(())
}

/// Lets a listening TCP socket report a connection only when its first bytes are there (tcp(7), `TCP_DEFER_ACCEPT`), or
/// some time after `patience`, which the kernel rounds to whole retransmissions.
///
/// # Errors
/// Those of setsockopt(2).
pub fn defer_accept(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let seconds = libc::c_int::try_from(patience.as_secs()).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// `TCP_RTO_MAX_MS` (`include/uapi/linux/tcp.h`, Linux 6.15).
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// The longest time that a TCP socket waits before it repeats what was not acknowledged; a second at least.
///
/// # Errors
/// Those of setsockopt(2), `ENOPROTOOPT` before Linux 6.15.
pub fn cap_rto(socket: BorrowedFd<'_>, cap: Duration) -> io::Result<()> {
    let milliseconds = libc::c_int::try_from(cap.as_millis()).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, milliseconds)
}

/// How many bytes written to a TCP socket the peer has not acknowledged (tcp(7), `SIOCOUTQ`).
///
/// # Errors
/// Those of ioctl(2).
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one int to where its argument points, which is live.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(u64::try_from(count).unwrap_or(0)) }
}

/// What the kernel knows about a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// The round trip, smoothed (RFC 6298).
    pub rtt: Duration,
    /// Segments sent once more so far.
    pub retransmits: u32,
    /// The path MTU in bytes.
    pub path_mtu: u32,
}

/// Asks about a TCP connection (tcp(7), `TCP_INFO`).
///
/// # Errors
/// Those of getsockopt(2).
pub fn tcp_facts(socket: BorrowedFd<'_>) -> io::Result<TcpFacts> {
    // SAFETY: `tcp_info` is plain integers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    let value = (&raw mut info).cast();
    // SAFETY: the value pointer names a live structure and `len` is its size; getsockopt writes no more than that, and what
    // an older kernel does not write stays zero.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpFacts {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        retransmits: info.tcpi_total_retrans,
        path_mtu: info.tcpi_pmtu,
    })
}

/// Groups of a process that are looked at; the kernel's own limit is 65,536 (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 1024;

/// The supplementary groups that the process at the other end of a Unix socket had when it connected (unix(7),
/// `SO_PEERGROUPS`).
///
/// # Errors
/// Those of getsockopt(2), `ERANGE` if there are more than 1024.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; MAX_GROUPS];
    let mut len = mem::size_of_val(&*groups) as libc::socklen_t;
    let value = groups.as_mut_ptr().cast();
    // SAFETY: the value pointer names `len` live bytes, and getsockopt writes no more than that.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, value, &raw mut len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(len as usize / mem::size_of::<libc::gid_t>());
    Ok(groups)
}

/// Lets a TCP socket take bytes only while fewer than this are waiting in it to be sent for the first time (tcp(7),
/// `TCP_NOTSENT_LOWAT`). What is on its way does not count.
///
/// # Errors
/// Those of setsockopt(2).
pub fn limit_unsent(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

fn set_int(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value pointer names a live c_int and `len` is its size; setsockopt only reads it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

struct ControlWriter {
    bytes: Aligned<CONTROL_CAPACITY>,
    len: usize,
}

impl Default for ControlWriter {
    fn default() -> Self {
        Self { bytes: Aligned([0; CONTROL_CAPACITY]), len: 0 }
    }
}

impl ControlWriter {
    fn push_ipv4_source(&mut self, from: Ipv4Addr) {
        let mut info = [0; IPV4_PACKET_INFO_LEN];
        info[4..8].copy_from_slice(&from.octets());
        self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
    }

    fn push_ipv6_source(&mut self, from: Ipv6Addr) {
        let mut info = [0; IPV6_PACKET_INFO_LEN];
        info[..16].copy_from_slice(&from.octets());
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }

    /// Appends a control message; CONTROL_CAPACITY holds every combination that is pushed.
    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let len = CONTROL_HEADER_LEN + data.len();
        let Some(room) = self.bytes.0.get_mut(self.len..self.len + len) else { return };
        let (header, body) = room.split_at_mut(CONTROL_HEADER_LEN);
        write_word(header, len);
        let fields = CONTROL_HEADER_LEN - 8;
        NativeEndian::write_i32(&mut header[fields..], level);
        NativeEndian::write_i32(&mut header[fields + 4..], kind);
        body.copy_from_slice(data);
        self.len += len.next_multiple_of(CONTROL_ALIGN);
    }
}

fn write_word(bytes: &mut [u8], word: usize) {
    NativeEndian::write_uint(bytes, word as u64, CONTROL_ALIGN);
}

/// Reads the control messages that concern us; anything malformed ends the reading.
fn parse_control(mut bytes: &[u8], arrival: &mut Arrival) {
    while bytes.len() >= CONTROL_HEADER_LEN {
        let fields = CONTROL_HEADER_LEN - 8;
        let len = usize::try_from(NativeEndian::read_uint(bytes, CONTROL_ALIGN)).unwrap_or(0);
        let (level, kind) = (NativeEndian::read_i32(&bytes[fields..]), NativeEndian::read_i32(&bytes[fields + 4..]));
        let Some(data) = bytes.get(CONTROL_HEADER_LEN..len) else { return };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= IPV4_PACKET_INFO_LEN => {
                arrival.interface = NativeEndian::read_u32(data);
                arrival.local = Some(Ipv4Addr::from_bits(BigEndian::read_u32(&data[4..])).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= IPV6_PACKET_INFO_LEN => {
                arrival.interface = NativeEndian::read_u32(&data[16..]);
                arrival.local = Some(Ipv6Addr::from_bits(BigEndian::read_u128(data)).into());
            }
            (libc::SOL_UDP, libc::UDP_GRO) if data.len() >= 4 => {
                arrival.segment = usize::try_from(NativeEndian::read_i32(data)).ok().filter(|segment| *segment > 0);
            }
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(CONTROL_ALIGN)..).unwrap_or_default();
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)).
fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = libc::c_int::from(NativeEndian::read_u16(bytes.get(..2)?));
    let port = BigEndian::read_u16(bytes.get(2..4)?);
    match family {
        libc::AF_INET => {
            let address = Ipv4Addr::from_bits(BigEndian::read_u32(bytes.get(4..8)?));
            Some(SocketAddrV4::new(address, port).into())
        }
        libc::AF_INET6 => {
            let bytes = bytes.get(..28)?;
            let address = Ipv6Addr::from_bits(BigEndian::read_u128(&bytes[8..]));
            let (flow, scope) = (BigEndian::read_u32(&bytes[4..]), NativeEndian::read_u32(&bytes[24..]));
            Some(SocketAddrV6::new(address, port, flow, scope).into())
        }
        _ => None,
    }
}

/// A descriptor of a child process that has not been waited for, closed on exec: readable once it has ended
/// (pidfd_open(2)).
///
/// # Errors
/// `ESRCH` if there is no such process, `EMFILE` and `ENFILE` without a free descriptor.
pub fn pidfd_open(process: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes a process number and flags, both integers, and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0u32) };
    let descriptor = RawFd::try_from(result).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just opened it for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sends a message with a descriptor or without one over a unix socket (sendmsg(2), `SCM_RIGHTS` of unix(7)).
///
/// # Errors
/// Those of sendmsg(2); `EPIPE` comes without a signal.
pub fn send_with_descriptor(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let raw = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
    let control: Vec<ControlMessage<'_>> = raw.iter().map(|raw| ControlMessage::ScmRights(raw)).collect();
    let parts = [io::IoSlice::new(message)];
    socket::sendmsg::<()>(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives a message, with a descriptor if one has come, and returns its length; 0 once the other end is closed. Further
/// descriptors are closed.
///
/// # Errors
/// Those of recvmsg(2); `EMSGSIZE` if the message is longer than the buffer.
pub fn receive_with_descriptor(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = socket::recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut received = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for raw in descriptors {
                // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows of it.
                received.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((message.bytes, received.into_iter().next()))
}

/// Whether something keeps the wall clock right, as the kernel was told (adjtimex(2)). Nothing is changed.
///
/// # Errors
/// Those of adjtimex(2), where a sandbox forbids it.
pub fn is_clock_synchronised() -> io::Result<bool> {
    // SAFETY: timex is a plain C structure of integers, for which all zeros is a valid value.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: `state` is an initialised timex that lives until the call returns; with `modes` 0 it is only written to.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair(host: &str) -> (UdpSocket, UdpSocket) {
        let ours = UdpSocket::bind((host, 0)).expect("a socket on loopback");
        let theirs = UdpSocket::bind((host, 0)).expect("a socket on loopback");
        (ours, theirs)
    }

    fn nth(batch: &mut ReceiveBatch, index: usize) -> (Arrival, &mut [u8]) {
        batch.datagrams(index, index + 1).next().flatten().expect("a whole datagram")
    }

    #[test]
    fn several_datagrams_arrive_in_one_call_with_their_source() {
        let (ours, theirs) = pair("127.0.0.1");
        let to = Some(ours.local_addr().expect("an address"));
        for text in [&b"one"[..], b"", b"three"] {
            send(theirs.as_fd(), &Departure { bytes: text, to, from: None, segment: None }).expect("a datagram sent");
        }
        let mut batch = ReceiveBatch::default();
        assert_eq!(receive(ours.as_fd(), &mut batch).expect("datagrams"), 3);
        let (arrival, bytes) = nth(&mut batch, 2);
        assert_eq!(bytes, b"three");
        assert_eq!(arrival.source, theirs.local_addr().expect("an address"));
        assert_eq!(nth(&mut batch, 1).1, b"");
        assert_eq!(receive(ours.as_fd(), &mut batch).expect_err("nothing more").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_local_address_can_be_chosen_and_is_reported() {
        let (ours, theirs) = pair("0.0.0.0");
        nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::Ipv4PacketInfo, &true).expect("packet info");
        let to = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 9).into(), ours.local_addr().expect("an address").port());
        let from = Some(Ipv4Addr::new(127, 0, 0, 7).into());
        send(theirs.as_fd(), &Departure { bytes: b"x", to: Some(to), from, segment: None }).expect("a datagram sent");
        let mut batch = ReceiveBatch::default();
        assert_eq!(receive(ours.as_fd(), &mut batch).expect("a datagram"), 1);
        let (arrival, _) = nth(&mut batch, 0);
        assert_eq!(arrival.source.ip(), IpAddr::from(Ipv4Addr::new(127, 0, 0, 7)));
        assert_eq!(arrival.local, Some(Ipv4Addr::new(127, 0, 0, 9).into()));
        assert_ne!(arrival.interface, 0);
    }

    #[test]
    fn a_train_is_sent_and_received_whole() {
        let (ours, theirs) = pair("127.0.0.1");
        nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::UdpGroSegment, &true).expect("UDP_GRO");
        let bytes: Vec<u8> = (0..250).collect();
        let to = Some(ours.local_addr().expect("an address"));
        send(theirs.as_fd(), &Departure { bytes: &bytes, to, from: None, segment: Some(100) }).expect("a train sent");
        let mut batch = ReceiveBatch::default();
        assert_eq!(receive(ours.as_fd(), &mut batch).expect("a train"), 1);
        let (arrival, received) = nth(&mut batch, 0);
        assert_eq!((arrival.segment, &received[..]), (Some(100), &bytes[..]));
    }

    #[test]
    fn malformed_control_messages_and_addresses_are_not_believed() {
        let mut arrival = Arrival { source: ([0, 0, 0, 0], 0).into(), local: None, interface: 0, segment: None };
        let before = arrival;
        for len in [0usize, 1, CONTROL_HEADER_LEN - 1, 10_000, usize::MAX] {
            let mut bytes = [0xff; CONTROL_CAPACITY];
            write_word(&mut bytes, len);
            parse_control(&bytes, &mut arrival);
        }
        assert_eq!(arrival, before);
        assert_eq!(parse_address(&[0; 16]), None);
        assert_eq!(parse_address(&[libc::AF_INET6 as u8, 0, 1, 1, 0]), None);
        assert_eq!(parse_address(&[]), None);
    }
}
