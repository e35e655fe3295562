//! Notifications to systemd about the state of the server, if systemd has started it (`Type=notify`): READY once it
//! serves, STATUS for people, WATCHDOG unless only a restart would help, RELOADING, STOPPING.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::status::health::{Health, Phase, Verdict};

/// Period of checking the state of the server, or shorter if the watchdog wants that.
const LOOK: Duration = Duration::from_millis(500);

/// Notifies systemd until it is dropped.
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
    /// Starts, if systemd listens.
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

/// Tells systemd that the configuration is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("systemd is not told of a reload: {error}"),
    }
}

/// Tells systemd that the reload is over.
pub(super) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that the server begins to shut down, which may be over before the next check.
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
    // If systemd is gone, there is no one to notify.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd is not told: {error}");
    }
}
