//! The control calls of the tun driver (`include/uapi/linux/if_tun.h`). One of the two files with unsafe code.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

/// The clone device from which every tun and tap descriptor comes.
pub const CLONE_DEVICE: &str = "/dev/net/tun";

mod raw {
    use nix::libc::{c_int, c_uint, ifreq};
    use std::mem::size_of;

    nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, size_of::<c_int>()), ifreq);
    nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, size_of::<c_int>()));
    nix::ioctl_write_int_bad!(set_owner, nix::request_code_write!(b'T', 204, size_of::<c_int>()));
    nix::ioctl_write_int_bad!(set_group, nix::request_code_write!(b'T', 206, size_of::<c_int>()));
    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, size_of::<c_uint>()));
    nix::ioctl_write_ptr_bad!(set_header_len, nix::request_code_write!(b'T', 216, size_of::<c_int>()), c_int);
    nix::ioctl_write_ptr_bad!(set_little_endian, nix::request_code_write!(b'T', 220, size_of::<c_int>()), c_int);
    nix::ioctl_write_ptr_bad!(set_carrier, nix::request_code_write!(b'T', 226, size_of::<c_int>()), c_int);
    nix::ioctl_read_bad!(get_interface, nix::request_code_read!(b'T', 210, size_of::<c_uint>()), ifreq);
}

/// Opens a clone device, non-blocking and closed on exec.
///
/// # Errors
/// Those of open(2).
pub fn open_clone_device(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

/// Attaches the descriptor to the interface `name`, creating it if there is none, and returns its real name
/// (`TUNSETIFF`).
///
/// # Errors
/// Those of `tun_set_iff()` in `drivers/net/tun.c`; `EINVAL` too if the name does not fit.
pub fn set_interface(file: &File, name: &str, flags: libc::c_int) -> io::Result<String> {
    let mut request = empty_request();
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, through a pointer that is valid for the call; the driver writes the
    // name back, which is why the request is read again below. The descriptor is open for as long as `file` lives.
    // The pointer is derived from a mutable place.
    unsafe { raw::set_interface(file.as_raw_fd(), &raw mut request) }?;
    Ok(name_of(&request))
}

/// The name of the interface and the flags that the descriptor is attached with (`TUNGETIFF`).
///
/// # Errors
/// `EBADFD` if it is not attached.
pub fn interface(file: &File) -> io::Result<(String, libc::c_int)> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one ifreq through a pointer that is valid for the call.
    unsafe { raw::get_interface(file.as_raw_fd(), &raw mut request) }?;
    // SAFETY: TUNGETIFF fills the flags member of the union, and any bit pattern is a valid c_short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), libc::c_int::from(flags)))
}

/// Makes the interface outlive its descriptor, or not (`TUNSETPERSIST`).
///
/// # Errors
/// `EBADFD` if the interface is gone.
pub fn set_persist(file: &File, persist: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { raw::set_persist(file.as_raw_fd(), libc::c_int::from(persist)) }.map(drop).map_err(io::Error::from)
}

/// Lets this user attach to the interface (`TUNSETOWNER`).
///
/// # Errors
/// `EINVAL` for a user that does not exist in this user namespace.
pub fn set_owner(file: &File, uid: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes its argument by value.
    unsafe { raw::set_owner(file.as_raw_fd(), uid as libc::c_int) }.map(drop).map_err(io::Error::from)
}

/// Lets members of this group attach to the interface (`TUNSETGROUP`).
///
/// # Errors
/// `EINVAL` for a group that does not exist in this user namespace.
pub fn set_group(file: &File, gid: u32) -> io::Result<()> {
    // SAFETY: TUNSETGROUP takes its argument by value.
    unsafe { raw::set_group(file.as_raw_fd(), gid as libc::c_int) }.map(drop).map_err(io::Error::from)
}

/// Says which offloads this end of the device takes (`TUNSETOFFLOAD`). The mask belongs to the device and outlives
/// its users.
///
/// # Errors
/// `EINVAL` for a bit that the kernel does not know.
pub fn set_offload(file: &File, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe { raw::set_offload(file.as_raw_fd(), mask as libc::c_int) }.map(drop).map_err(io::Error::from)
}

/// Sets the length of the header in front of each packet, in bytes (`TUNSETVNETHDRSZ`), and its byte order to little
/// endian (`TUNSETVNETLE`). Both belong to the device and outlive its users.
///
/// # Errors
/// `EINVAL` for a length shorter than the header.
pub fn set_header(file: &File, len: usize) -> io::Result<()> {
    let len = libc::c_int::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: TUNSETVNETHDRSZ reads one c_int through a pointer that is valid for the call.
    unsafe { raw::set_header_len(file.as_raw_fd(), &raw const len) }?;
    let little_endian: libc::c_int = 1;
    // SAFETY: TUNSETVNETLE reads one c_int through a pointer that is valid for the call.
    unsafe { raw::set_little_endian(file.as_raw_fd(), &raw const little_endian) }?;
    Ok(())
}

/// Switches the carrier of the interface on or off (`TUNSETCARRIER`), which its owner may do.
///
/// # Errors
/// `EINVAL` from a kernel before 4.20, `ENOTTY` if it is no clone device, `EBADFD` if the interface is gone.
pub fn set_carrier(file: &File, on: bool) -> io::Result<()> {
    let on = libc::c_int::from(on);
    // SAFETY: TUNSETCARRIER reads one c_int through a pointer that is valid for the call.
    unsafe { raw::set_carrier(file.as_raw_fd(), &raw const on) }?;
    Ok(())
}

fn empty_request() -> libc::ifreq {
    // SAFETY: ifreq is a plain C structure of bytes, integers and pointers, for which all zeros is a valid value.
    unsafe { mem::zeroed() }
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
