//! seccomp and Landlock: which system calls the process may make, and which files it may open.
//!
//! A call that is not in the list fails with `EPERM`, as it would for lack of a right: the libraries that are asked to look
//! up a name differ from system to system, and one that tries something unusual finds another way or fails, where a
//! process that is killed takes the tunnel with it. What would be of use to an intruder (other programs, other processes'
//! memory, modules, mounts, new namespaces) is refused all the same.
//!
//! Landlock does not restrict TCP ports: a configuration that is read again may name another one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, make_bitflags, path_beneath_rules,
};
use log::warn;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What the process has to reach beside what every process needs.
#[derive(Debug, Default)]
pub struct Paths {
    /// Directories to read in.
    pub read: Vec<PathBuf>,
    /// Directories to read and write in.
    pub write: Vec<PathBuf>,
}

/// Where the resolver, the C library and this program look: files are replaced by new ones, so directories are named.
const READ: [&str; 16] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/systemd/netif",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/nscd",
    "/var/run/nscd",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/nix/store",
    "/proc",
    "/dev/urandom",
];

/// Enters both, as far as the kernel has them; says what is in force. What is not is said in a warning, and is no reason
/// not to run: everything else was given up by then.
pub fn enter(paths: &Paths) -> String {
    let files = restrict_files(paths).unwrap_or_else(|error| {
        warn!("Landlock is not in force: {error}");
        "no Landlock".to_owned()
    });
    format!("{}, {files}", told(restrict_calls(&[])))
}

/// As [`enter`], for the helper: system calls alone. It opens what the configuration names, wherever that is. If it runs
/// hooks it is only kept from calls that are of no use to them: they inherit what holds for it, and what an
/// administrator's program calls cannot be foreseen.
pub fn enter_helper(runs_hooks: bool) {
    told(if runs_hooks { refuse_calls(OF_NO_USE_TO_HOOKS) } else { restrict_calls(HELPER) });
}

fn told(outcome: Result<(), FilterError>) -> &'static str {
    match outcome {
        Ok(()) => "seccomp",
        Err(error) => {
            warn!("seccomp is not in force: {error}");
            "no seccomp"
        }
    }
}

fn restrict_files(paths: &Paths) -> Result<String, landlock::RulesetError> {
    let abi = ABI::V6;
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = read | make_bitflags!(AccessFs::{WriteFile | MakeReg | MakeSock | RemoveFile | Truncate});
    let status = landlock::Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(READ.iter().map(PathBuf::from).chain(paths.read.iter().cloned()), read))?
        .add_rules(path_beneath_rules(&paths.write, write))?
        .add_rules(path_beneath_rules(["/dev/null"], write))?
        .restrict_self()?;
    let version = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    };
    Ok(match status.ruleset {
        RulesetStatus::NotEnforced => "no Landlock (this kernel has none)".to_owned(),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => format!("Landlock (version {version})"),
    })
}

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
enum FilterError {
    #[error("it cannot be made: {0}")]
    Backend(#[from] BackendError),
    #[error("the kernel does not take it: {0}")]
    Kernel(#[from] seccompiler::Error),
}

fn restrict_calls(more: &[i64]) -> Result<(), FilterError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter: BpfProgram =
        SeccompFilter::new(allowed(more)?, refused, SeccompAction::Allow, architecture)?.try_into()?;
    // Its flags cannot be looked at: the C library goes on with clone(2) if there is no such call.
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let first: BpfProgram = SeccompFilter::new(no_clone3, SeccompAction::Allow, absent, architecture)?.try_into()?;
    seccompiler::apply_filter(&first)?;
    seccompiler::apply_filter(&filter)?;
    Ok(())
}

/// Refuses these calls and no other.
fn refuse_calls(calls: &[i64]) -> Result<(), FilterError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture)?.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}

/// The calls that are allowed, with conditions on their arguments.
fn allowed(more: &[i64]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN.iter().chain(more).map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(OLD.iter().map(|call| (*call, Vec::new())));
    let one_of = |argument: u8, values: &[u64]| {
        let condition = |value: &u64| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)
                .and_then(|condition| SeccompRule::new(vec![condition]))
        };
        values.iter().map(condition).collect::<Result<Vec<_>, _>>()
    };
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| family as u64);
    rules.insert(libc::SYS_socket, one_of(0, &families)?);
    rules.insert(libc::SYS_ioctl, one_of(1, &IOCTLS)?);
    let mut prctl = one_of(0, &[libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64])?;
    // Keys are read again: the process says once more that it leaves no core file, and cannot say that it does.
    let dumpable = |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    prctl.push(SeccompRule::new(vec![dumpable(0, libc::PR_SET_DUMPABLE as u64)?, dumpable(1, 0)?])?);
    rules.insert(libc::SYS_prctl, prctl);
    let thread = libc::CLONE_THREAD as u64;
    let is_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    Ok(rules)
}

/// What is asked of descriptors: the device (`include/uapi/linux/if_tun.h`), sockets, interfaces by name and index, and
/// whether standard error is a terminal.
const IOCTLS: [u64; 11] = [
    nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()) as u64,
    nix::request_code_write!(b'T', 208, size_of::<libc::c_int>()) as u64,
    nix::request_code_write!(b'T', 226, size_of::<libc::c_int>()) as u64,
    nix::request_code_read!(b'T', 210, size_of::<libc::c_int>()) as u64,
    libc::FIONBIO,
    libc::FIONREAD,
    libc::TCGETS,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFNAME,
    libc::SIOCGIFFLAGS,
    libc::SIOCGIFMTU,
];

/// Calls that are allowed whatever their arguments.
const PLAIN: &[i64] = &[
    // Data, and waiting for it.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_pipe2,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Files, as far as Landlock lets them be opened.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    // Memory: libraries that look up names are loaded when the first name is looked up.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads and signals.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The end of the helper.
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Who and where this process is.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
];

/// What the helper makes beside that: the directory of its records.
const HELPER: &[i64] = &[libc::SYS_mkdirat];

/// What the helper with hooks and its hooks are refused: what takes a capability that they lack in any case, memory of other
/// processes, and what is known for holes in kernels rather than from scripts.
const OF_NO_USE_TO_HOOKS: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_open_by_handle_at,
];

/// Those that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_unlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_create,
    libc::SYS_eventfd,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_made_and_knows_no_way_to_another_program() {
        let rules = allowed(HELPER).unwrap();
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_bpf,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_init_module,
            libc::SYS_io_uring_setup,
            libc::SYS_kill,
        ] {
            assert!(!rules.contains_key(&call), "{call}");
        }
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture).unwrap();
        let _: BpfProgram = filter.try_into().unwrap();
    }
}
