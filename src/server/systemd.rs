//! Tells systemd how the server is, where systemd has started it (`Type=notify`): READY once it serves,
//! STATUS as people read it, WATCHDOG while nothing but a new start would help, RELOADING, STOPPING.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::status::health::{Health, Phase, Verdict};

/// Between two looks at how the server is. A watchdog that wants to hear more often does.
const LOOK: Duration = Duration::from_millis(500);

/// Tells systemd until it is dropped.
pub(super) struct Systemd {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Systemd {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "it does not panic");
        }
    }
}

impl Systemd {
    /// Begins, if systemd listens.
    ///
    /// # Errors
    /// If the thread can't be made.
    pub(super) fn start(health: Arc<Health>) -> std::io::Result<Self> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self { stop: None, thread: None });
        }
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("kyro-systemd".into());
        let thread = thread.spawn(move || tell(&health, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// What is told in between: the configuration is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("systemd is not told of a reload: {error}"),
    }
}

/// And that this is over.
pub(super) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// The server begins to shut down, which may be over before the next look.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn tell(health: &Health, stopped: &Receiver<()>) {
    let watchdog = sd_notify::watchdog_enabled();
    let period = watchdog.map_or(LOOK, |patience| (patience / 3).min(LOOK));
    let (mut said, mut is_ready) = (String::new(), false);
    loop {
        let status = words(health);
        if status != said {
            notify(&[NotifyState::Status(&status)]);
            said = status;
        }
        if health.phase() == Phase::Serving && !is_ready {
            notify(&[NotifyState::Ready]);
            is_ready = true;
        }
        if watchdog.is_some() && health.deadlock().is_none() {
            notify(&[NotifyState::Watchdog]);
        }
        match stopped.recv_timeout(period) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    }
}

fn words(health: &Health) -> String {
    match health.verdict() {
        Verdict::Starting(progress) => format!("starting: {progress}"),
        Verdict::Healthy => "healthy".into(),
        Verdict::Degraded(why) => format!("degraded: {why}"),
        Verdict::Unhealthy(why) => format!("unhealthy: {why}"),
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // systemd that is not there any more has nothing to be told.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd is not told: {error}");
    }
}
