//! The last steps before execve(2): descriptors, terminal, limits, identity, rights.

use super::user::Identity;
use super::{Channel, caps};
use crate::failure::{Result, Step, failure, refused, system};
use crate::startup::FromChild;
use crate::sys;
use rustix::fs::{FileType, Gid, Mode, Uid, fchmod, fchown, fstat};
use rustix::io::Errno;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use shim::protocol::{FailureKind, Process};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The group `tty` everywhere.
const TTY_GID: u32 = 5;

/// Input and output, all of it there now.
pub(crate) enum Stdio<'a> {
    Descriptors(&'a [OwnedFd; 3]),
    Terminal(OwnedFd),
}

impl<'a> Stdio<'a> {
    pub(crate) fn new(stdio: &'a super::Stdio, terminal: Option<OwnedFd>) -> Option<Stdio<'a>> {
        match (stdio, terminal) {
            (_, Some(slave)) => Some(Stdio::Terminal(slave)),
            (super::Stdio::Descriptors(fds), None) => Some(Stdio::Descriptors(fds)),
            (super::Stdio::Terminal, None) => None,
        }
    }
}

pub(crate) struct Program<'a> {
    pub(crate) process: &'a Process,
    pub(crate) identity: Identity,
    pub(crate) cwd: OwnedFd,
    pub(crate) stdio: Option<Stdio<'a>>,
    pub(crate) channel: &'a Channel,
}

/// Written while /proc is still the host's, and also where the spec says nothing: the shim's own protection must not
/// pass to the container. A machine may refuse to lower it; the container runs without it then.
pub(crate) fn set_oom_score(adjustment: Option<i32>) -> Result<()> {
    let value = adjustment.unwrap_or(0);
    match std::fs::write("/proc/self/oom_score_adj", value.to_string()) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            Err(error).step(|| format!("set oom_score_adj to {value}"))
        }
        _ => Ok(()),
    }
}

/// Becomes the program. It returns only to say why it did not.
pub(crate) fn execute(program: Program<'_>) -> Result<Infallible> {
    let Program { process, identity, cwd, stdio, channel } = program;
    let arguments = c_strings(&process.args, "an argument")?;
    let environment = environment(process, &identity)?;
    let candidates = candidates(process)?;
    enter_cwd(&cwd, &process.cwd)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for limit in &process.rlimits {
        match sys::set_rlimit(limit.resource, limit.soft, limit.hard) {
            // Raising a limit takes a capability that not every machine has.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno).step(|| format!("set the resource limit {}", limit.resource)),
        }
    }
    // A new session, so that no signal of the shim's terminal or group reaches it.
    rustix::process::setsid().step(|| "begin a session".into())?;
    if let Some(stdio) = stdio {
        connect(&stdio, &identity)?;
    }
    caps::apply(process, &identity)?;
    sys::reset_signals();
    sys::close_all_on_exec();
    channel.send(&FromChild::Ready, None).step(|| "tell the shim".into())?;
    Err(run(&candidates, &arguments, &environment, &process.args))
}

fn c_strings(texts: &[String], what: &str) -> Result<Vec<CString>> {
    let convert = |text: &String| {
        let invalid = |_| refused(format!("pass {what} {text:?}"), "it holds a NUL byte");
        CString::new(text.as_str()).map_err(invalid)
    };
    texts.iter().map(convert).collect()
}

/// An entry without a name or without `=` is no variable and is left out (CVE-2026-57231).
fn environment(process: &Process, identity: &Identity) -> Result<Vec<CString>> {
    let is_variable = |entry: &&String| entry.find('=').is_some_and(|at| at > 0);
    let mut entries: Vec<String> = process.env.iter().filter(is_variable).cloned().collect();
    let has = |entries: &[String], name: &str| entries.iter().any(|entry| entry.starts_with(name));
    if !has(&entries, "HOME=") {
        entries.push(format!("HOME={}", identity.home.as_deref().unwrap_or("/")));
    }
    if !has(&entries, "PATH=") {
        entries.push(format!("PATH={DEFAULT_PATH}"));
    }
    if process.terminal && !has(&entries, "TERM=") {
        entries.push("TERM=xterm".into());
    }
    c_strings(&entries, "an environment variable")
}

/// The files to try: the one named, or the name in every directory of the container's PATH.
fn candidates(process: &Process) -> Result<Vec<CString>> {
    let program = process.args.first().filter(|program| !program.is_empty());
    let program =
        program.ok_or_else(|| failure(FailureKind::Entrypoint, "run the container", "no command is given"))?;
    if program.contains('/') {
        return c_strings(std::slice::from_ref(program), "the command");
    }
    let path = process.env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let in_dir = |dir: &str| format!("{}/{program}", if dir.is_empty() { "." } else { dir });
    c_strings(&path.split(':').map(in_dir).collect::<Vec<_>>(), "the command")
}

fn run(
    candidates: &[CString],
    arguments: &[CString],
    environment: &[CString],
    args: &[String],
) -> shim::protocol::Failure {
    let name = args.first().map_or("", String::as_str);
    let step = format!("execute {name:?}");
    let searched = !name.contains('/');
    let mut denied = None;
    for candidate in candidates {
        match sys::execute(candidate, arguments, environment) {
            Errno::NOENT | Errno::NOTDIR if searched => {}
            Errno::ACCESS if searched => denied = Some(Errno::ACCESS),
            errno => return system(FailureKind::Entrypoint, step, errno.raw_os_error()),
        }
    }
    match denied {
        Some(errno) => system(FailureKind::Entrypoint, step, errno.raw_os_error()),
        None => failure(FailureKind::Entrypoint, step, "executable file not found in $PATH"),
    }
}

/// A directory outside the root, reached through a leaked descriptor, reads as "(unreachable)…" (CVE-2024-21626).
fn enter_cwd(cwd: &OwnedFd, path: &str) -> Result<()> {
    let step = || format!("use {path:?} as the working directory");
    rustix::process::fchdir(cwd).step(step)?;
    let here = rustix::process::getcwd(Vec::new()).step(step)?;
    if here.to_bytes().starts_with(b"/") { Ok(()) } else { Err(refused(step(), "it is outside the container")) }
}

fn connect(stdio: &Stdio<'_>, identity: &Identity) -> Result<()> {
    let fds: [BorrowedFd<'_>; 3] = match stdio {
        Stdio::Descriptors([input, output, error]) => [input.as_fd(), output.as_fd(), error.as_fd()],
        Stdio::Terminal(slave) => {
            rustix::process::ioctl_tiocsctty(slave).step(|| "take the terminal".into())?;
            fchown(slave, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(TTY_GID)))
                .and_then(|()| fchmod(slave, Mode::from_raw_mode(0o620)))
                .step(|| "give the terminal to the container's user".into())?;
            [slave.as_fd(); 3]
        }
    };
    for fd in fds {
        give_away(fd, identity.uid);
    }
    let step = || "connect input and output".to_owned();
    dup2_stdin(fds[0]).step(step)?;
    dup2_stdout(fds[1]).step(step)?;
    dup2_stderr(fds[2]).step(step)
}

/// Lets a user other than root open /dev/stdout anew, as programs do that log to it by name. Only for pipes: other things
/// belong to whoever passed them.
fn give_away(fd: BorrowedFd<'_>, uid: u32) {
    let is_pipe = fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if is_pipe && uid != 0 {
        fchown(fd, Some(Uid::from_raw(uid)), None).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim::protocol::{Capabilities, User};

    fn process(args: &[&str], env: &[&str]) -> Process {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Process {
            args: texts(args),
            env: texts(env),
            cwd: "/".into(),
            user: User { name: String::new(), uid: None, gid: None, additional_gids: vec![], must_not_be_root: false },
            terminal: false,
            window: None,
            capabilities: Capabilities { bounding: 0, effective: 0, permitted: 0, inheritable: 0, ambient: 0 },
            no_new_privs: false,
            rlimits: vec![],
            oom_score_adj: None,
        }
    }

    fn texts(list: Result<Vec<CString>>) -> Option<Vec<String>> {
        list.ok().map(|list| list.into_iter().map(|text| text.into_string().unwrap()).collect())
    }

    #[test]
    fn the_command_is_looked_for_in_the_containers_path() {
        for (args, env, expected) in [
            (&["/bin/x", "y"][..], &[][..], Some(vec!["/bin/x"])),
            (&["./x"], &["PATH=/a"], Some(vec!["./x"])),
            (&["x"], &["PATH=/a:/b"], Some(vec!["/a/x", "/b/x"])),
            (&["x"], &["PATH="], Some(vec!["./x"])),
            (&[], &[], None),
            (&[""], &[], None),
            (&["a\0b"], &["PATH=/a"], None),
        ] {
            let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect());
            assert_eq!(texts(candidates(&process(args, env))), expected, "{args:?}");
        }
        assert_eq!(candidates(&process(&["x"], &[])).unwrap().len(), 6);
    }

    #[test]
    fn s_c05_only_variables_are_passed_and_nothing_is_added_but_defaults() {
        let identity = Identity { uid: 1, gid: 1, groups: vec![], home: Some("/h".into()) };
        let path = format!("PATH={DEFAULT_PATH}");
        for (env, expected) in [
            (&["A=1", "FOO", "=x", "", "B="][..], vec!["A=1", "B=", "HOME=/h", &path]),
            (&["HOME=/x\nroot2::0:0:::", "PATH=/p"], vec!["HOME=/x\nroot2::0:0:::", "PATH=/p"]),
        ] {
            assert_eq!(texts(environment(&process(&["x"], env), &identity)).unwrap(), expected);
        }
        assert!(environment(&process(&["x"], &["A=\0"]), &identity).is_err());
    }
}
