//! How a process becomes the program: rights are given up, then it is executed.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use libc::sock_filter;
use rustix::{
    fs::{Access, AtFlags, CWD, Gid, Uid, accessat, fchown},
    process::{Resource, Rlimit, chdir, getrlimit, setrlimit},
    thread::{
        disable_transparent_huge_pages, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::{Broken, During, Order, Told, ahead::Ahead, tell};
use crate::{
    capabilities,
    protection::{Protection, Without},
    sys,
};

/// Where programs are looked up when the environment doesn't say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first process becomes the program itself; returns only what went wrong.
pub(super) fn start(
    order: &Order,
    filter: &mut [sock_filter],
    without: &Without,
) -> Result<Infallible, Broken> {
    enter(order, without)?;
    give_up(filter, without)?;
    become_user(order)?;
    execute(order, without)
}

/// What the first process may do ends before there is a program.
pub(super) fn step_back(without: &Without) -> Result<(), Broken> {
    if !without.leaves_out(Protection::Capabilities) {
        capabilities::reduce().during("give up capabilities")?;
    }
    if !without.leaves_out(Protection::NoNewPrivileges) {
        set_no_new_privs(true).during("give up new privileges")?;
    }
    Ok(())
}

/// `/dev/stdout` and `/dev/stderr` are opened anew by programs: their owner must be the user.
pub(super) fn own_output(order: &Order) -> Result<(), Broken> {
    let (uid, gid) = (Uid::from_raw(order.uid), Gid::from_raw(order.gid));
    fchown(io::stdout(), Some(uid), Some(gid)).during("give standard output to the user")?;
    fchown(io::stderr(), Some(uid), Some(gid)).during("give standard error to the user")
}

/// Limits, and the working directory.
pub(super) fn enter(order: &Order, without: &Without) -> Result<(), Broken> {
    limit(order.files, without)?;
    chdir(order.cwd.as_str()).during("cwd").map_err(|broken| Broken { path: order.cwd.clone(), ..broken })
}

/// Every right that a program doesn't get, for ever.
pub(super) fn give_up(filter: &mut [sock_filter], without: &Without) -> Result<(), Broken> {
    // The server and its keeper do without huge pages, and that is inherited; a program decides itself.
    disable_transparent_huge_pages(false).during("allow huge pages")?;
    let no_new = !without.leaves_out(Protection::NoNewPrivileges);
    if !no_new {
        // Without it the kernel takes a filter only from who has all capabilities.
        install(filter, without)?;
    }
    if !without.leaves_out(Protection::Capabilities) {
        capabilities::restrict().during("give up capabilities")?;
    }
    if no_new {
        set_no_new_privs(true).during("give up new privileges")?;
        install(filter, without)?;
    }
    Ok(())
}

fn install(filter: &mut [sock_filter], without: &Without) -> Result<(), Broken> {
    if without.leaves_out(Protection::Seccomp) {
        return Ok(());
    }
    sys::install_filter(filter).during("install the filter of system calls")
}

pub(super) fn become_user(order: &Order) -> Result<(), Broken> {
    let groups: Vec<Gid> = order.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(order.uid), Gid::from_raw(order.gid));
    set_thread_groups(&groups).during("become the user")?;
    set_thread_res_gid(gid, gid, gid).during("become the user")?;
    set_thread_res_uid(uid, uid, uid).during("become the user")
}

fn limit(files: u32, without: &Without) -> Result<(), Broken> {
    // Raising the ceiling takes a right over the host, which nobody has here.
    let ceiling = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let files = Some(u64::from(files).min(ceiling));
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files }).during("limit open files")?;
    if without.leaves_out(Protection::NoCoreDumps) {
        return Ok(());
    }
    // Where the host hands dumps to a program, 0 would be no limit; 1 is, and no file is that small.
    setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) }).during("forbid core dumps")
}

/// The first process has the program executed; then it passes signals on and reaps, until that has ended.
pub(super) fn lead(
    order: Order,
    ahead: &Ahead,
    keeper: BorrowedFd<'_>,
    filter: &mut [sock_filter],
    without: &Without,
) -> ! {
    // The end of the socket to the server tells it that the program was executed: only who executes it has
    // it from now on.
    sys::close_all_but(&mut [keeper.as_raw_fd(), ahead.line()]);
    ahead.obey(order);
    if !without.leaves_out(Protection::NoNewPrivileges) && install(filter, without).is_err() {
        sys::exit_now(127);
    }
    let child = ahead.pid();
    loop {
        match sys::wait_for_signal() {
            libc::SIGCHLD => {
                while let Some((pid, status)) = sys::reap_any() {
                    if pid == child {
                        tell(keeper, &Told::Ended(status));
                        sys::exit_now(0);
                    }
                }
            }
            // Its own faults are no signals to pass on.
            signal @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL) => {
                sys::exit_now(128 + signal)
            }
            signal => sys::kill(child, signal),
        }
    }
}

/// Executes the program; returns only what went wrong.
pub(super) fn execute(order: &Order, without: &Without) -> Result<Infallible, Broken> {
    let strings =
        |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let argv = strings(&order.argv).during("read the command")?;
    let env = strings(&order.env).during("read the environment")?;
    sys::reset_signals();
    if without.leaves_out(Protection::ClosedDescriptors) {
        sys::keep_across_execution();
    }
    Err(look_up(order, &argv, &env))
}

/// Executes the program, looked up as a shell does; returns what went wrong.
fn look_up(order: &Order, argv: &[CString], env: &[CString]) -> Broken {
    let name = order.argv.first().map(String::as_str).unwrap_or_default();
    if name.contains('/') {
        let error =
            argv.first().map_or_else(|| io::ErrorKind::NotFound.into(), |path| sys::execute(path, argv, env));
        return explain(name, error);
    }
    let path = order.env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(PATH);
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let Ok(candidate) = CString::new(format!("{directory}/{name}")) else { continue };
        let error = sys::execute(&candidate, argv, env);
        match error.raw_os_error() {
            Some(libc::ENOENT) if !exists(&candidate) => {}
            Some(libc::ENOTDIR) => {}
            // Another directory may have one that may be executed.
            Some(libc::EACCES) => refused = Some((candidate, error)),
            _ => return explain(&candidate.to_string_lossy(), error),
        }
    }
    match refused {
        Some((candidate, error)) => explain(&candidate.to_string_lossy(), error),
        None => explain(name, io::Error::from_raw_os_error(libc::ENOENT)),
    }
}

fn explain(path: &str, error: io::Error) -> Broken {
    let there = CString::new(path).is_ok_and(|path| exists(&path)) && path.contains('/');
    let step = match error.raw_os_error() {
        Some(libc::ENOENT) if there => "interpreter",
        Some(libc::ENOENT | libc::ENOTDIR) => "program",
        Some(libc::EACCES | libc::EPERM) => "permission",
        Some(libc::ENOEXEC | libc::EINVAL | libc::ELIBBAD) => "format",
        _ => "execute",
    };
    Broken { step, error, path: path.to_owned() }
}

fn exists(path: &CStr) -> bool {
    accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}
