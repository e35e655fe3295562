//! Lines in the log where health goes down or up: `health: degraded: REASON`, `health: unhealthy: REASON`,
//! `health: healthy`.

use std::sync::Arc;
use std::time::Duration;

use super::health::{Health, Phase, Verdict};

/// Between two looks at health. What comes and goes in between has no line.
const LOOK: Duration = Duration::from_secs(1);

/// Looks for as long as the pages are served.
pub(super) async fn tell(health: Arc<Health>) {
    let mut looks = tokio::time::interval(LOOK);
    let mut told = Told::default();
    loop {
        looks.tick().await;
        // Starting and ending have lines of their own.
        if health.phase() != Phase::Serving {
            continue;
        }
        let verdict = health.verdict();
        if told.is_news(&verdict) {
            match verdict {
                Verdict::Healthy => tracing::info!("health: healthy"),
                Verdict::Degraded(why) => tracing::warn!("health: degraded: {why}"),
                Verdict::Unhealthy(why) => tracing::error!("health: unhealthy: {why}"),
                Verdict::Starting(_) => {}
            }
        }
    }
}

/// What the log has said last.
#[derive(Default)]
struct Told(String);

impl Told {
    /// Whether this is another state, or has other reasons; other numbers in them are no news.
    fn is_news(&mut self, verdict: &Verdict) -> bool {
        let words = match verdict {
            Verdict::Healthy | Verdict::Starting(_) => String::new(),
            Verdict::Degraded(why) => format!("degraded: {why}"),
            Verdict::Unhealthy(why) => format!("unhealthy: {why}"),
        };
        let words = words.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        let is_news = words != self.0;
        self.0 = words;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_told_once_and_its_end_too() {
        let mut told = Told::default();
        let degraded = |why: &str| Verdict::Degraded(why.into());
        let looks = [
            (Verdict::Healthy, false),
            (degraded("12 MiB are left"), true),
            (degraded("9 MiB are left"), false),
            (degraded("9 MiB are left; SLO breach"), true),
            (Verdict::Unhealthy("9 MiB are left; SLO breach".into()), true),
            (Verdict::Healthy, true),
            (Verdict::Healthy, false),
        ];
        for (verdict, is_news) in looks {
            assert_eq!(told.is_news(&verdict), is_news, "{verdict:?}");
        }
    }
}
