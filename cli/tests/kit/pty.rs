//! A terminal with a command of the kit's in it, as somebody sits at it.

use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize};

/// Whatever is waited for comes within this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Pty {
    master: OwnedFd,
    /// Kept open, so that its settings can be asked for when the command is gone.
    slave: OwnedFd,
    child: Child,
    shown: Arc<Mutex<String>>,
    /// What was waited for lies before this.
    read: usize,
}

impl Pty {
    /// Starts a command in a terminal of its own, which is the one that controls it.
    pub(crate) fn spawn(command: &Command, (rows, columns): (u16, u16)) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        rustix::termios::tcsetwinsize(&slave, winsize(rows, columns)).unwrap();
        let mut session = Command::new("setsid");
        session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .env("TERM", "xterm");
        for (name, value) in command.get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        let child = session
            .current_dir(command.get_current_dir().unwrap())
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave.try_clone().unwrap())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let (from, into) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = rustix::io::read(&from, &mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).replace('\r', "");
                into.lock().unwrap().push_str(&text);
            }
        });
        Self {
            master,
            slave,
            child,
            shown,
            read: 0,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn type_in(&self, text: &str) {
        assert_eq!(
            rustix::io::write(&self.master, text.as_bytes()).unwrap(),
            text.len()
        );
    }

    /// Waits until `text` is shown, after what was waited for before. Returns what was shown up to it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            let new = shown.get(self.read..).unwrap_or_default();
            if let Some(at) = new.find(text) {
                self.read += at + text.len();
                return new[..at].to_owned();
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "`{text}` was not shown; shown was:\n{shown}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types a line and waits for a text that it makes appear.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str, text: &str) {
        self.type_in(&format!("{line}\n"));
        self.wait_for(text);
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        rustix::termios::tcsetwinsize(&self.master, winsize(rows, columns)).unwrap();
    }

    /// Whether keys are echoed and lines edited, as they are before a program wants every key for itself.
    pub(crate) fn is_as_before(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes: Termios = rustix::termios::tcgetattr(&self.slave).unwrap();
        modes
            .local_modes
            .contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits for its end; with its exit code and all that was shown.
    #[track_caller]
    pub(crate) fn finish(mut self) -> (i32, String) {
        use std::os::unix::process::ExitStatusExt as _;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "it does not end; shown was:\n{}",
                self.shown.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        // What is still on its way.
        std::thread::sleep(Duration::from_millis(50));
        let code = status
            .code()
            .unwrap_or_else(|| -status.signal().unwrap_or_default());
        let shown = self.shown.lock().unwrap().clone();
        assert!(!shown.contains("panicked at"), "{shown}");
        assert!(self.is_as_before(), "the terminal was not restored");
        (code, shown)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
