//! The filter of system calls: which of them the kernel refuses to an untrusted program.
//!
//! A list of refused calls and not of allowed ones: the namespaces and the missing rights are the wall, this takes away
//! what would make the program more than one process, what reserves memory that no limit counts, and the parts of the
//! kernel where walls have had holes.

/// `EPERM`: the same number on every architecture of Linux.
const NOT_PERMITTED: u32 = 1;

/// `ENOSYS`: makes the C library fall back from `clone3`, whose flags a filter cannot see, to `clone`.
const NOT_IMPLEMENTED: u32 = 38;

/// Calls of another kind than the processor's own (x32) begin here.
const X32_CALLS: u32 = 0x4000_0000;

/// Threads share everything with their process; whatever `clone` makes without this flag is another process.
const CLONE_THREAD: u32 = 0x0001_0000;

/// Places in the kernel's `struct seccomp_data`.
const CALL_NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT_LOW: u32 = 16;

/// `<linux/filter.h>` and `<linux/seccomp.h>`.
const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_NOT_LESS: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// `AUDIT_ARCH_*` of the processor that this was compiled for.
const OWN_ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// What is refused wherever it exists.
const REFUSED: &[libc::c_long] = &[
    // Another program, or the network.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    // Memory that the limit on the address space does not count.
    libc::SYS_memfd_create,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    // Namespaces, mounts, roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Large parts of the kernel that no solution of a programming problem needs.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_seccomp,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Newer architectures have `clone` alone.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// The filter as the kernel reads it: 8 bytes per instruction, in the machine's byte order.
pub(super) fn compiled() -> Option<Vec<u8>> {
    let mut program = Vec::new();
    let mut add = |code: u16, jump_true: u8, jump_false: u8, value: u32| {
        program.extend(code.to_ne_bytes());
        program.extend([jump_true, jump_false]);
        program.extend(value.to_ne_bytes());
    };
    // Jumps count the instructions they leave out.
    add(LOAD_WORD, 0, 0, ARCHITECTURE);
    add(JUMP_EQUAL, 1, 0, OWN_ARCHITECTURE);
    add(RETURN, 0, 0, KILL_PROCESS);
    add(LOAD_WORD, 0, 0, CALL_NUMBER);
    if cfg!(target_arch = "x86_64") {
        add(JUMP_NOT_LESS, 0, 1, X32_CALLS);
        add(RETURN, 0, 0, REFUSE | NOT_PERMITTED);
    }
    for &call in REFUSED {
        add(JUMP_EQUAL, 0, 1, u32::try_from(call).ok()?);
        add(RETURN, 0, 0, REFUSE | NOT_PERMITTED);
    }
    add(JUMP_EQUAL, 0, 1, u32::try_from(libc::SYS_clone3).ok()?);
    add(RETURN, 0, 0, REFUSE | NOT_IMPLEMENTED);
    add(JUMP_EQUAL, 0, 3, u32::try_from(libc::SYS_clone).ok()?);
    add(LOAD_WORD, 0, 0, FIRST_ARGUMENT_LOW);
    add(JUMP_ANY_BIT, 1, 0, CLONE_THREAD);
    add(RETURN, 0, 0, REFUSE | NOT_PERMITTED);
    add(RETURN, 0, 0, ALLOW);
    Some(program)
}

/// The number of `pivot_root`, for which the C library has no function.
pub(super) const PIVOT_ROOT: libc::c_long = libc::SYS_pivot_root;
