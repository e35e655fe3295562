//! Selection and removal of backups that are not kept.

use std::collections::BTreeSet;

use super::Result;
use super::record::Backup;
use super::storage::{Storage, UNFINISHED_AGE};
use super::time::{DAY, date};

/// Rules for keeping backups.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Number of hours of which the newest backup is kept.
    pub hourly: usize,
    /// Number of days of which the newest backup is kept.
    pub daily: usize,
    /// Number of weeks, from Monday on, of which the newest backup is kept.
    pub weekly: usize,
    /// Number of months of which the newest backup is kept.
    pub monthly: usize,
    /// Backups younger than this are kept.
    pub min_age_days: u64,
    /// If set, the only rule: older backups are removed, and no others.
    pub older_than_days: Option<u64>,
}

/// Result of a prune, or of its dry run.
pub struct Pruned {
    /// Removed backups, oldest first.
    pub removed: Vec<Backup>,
    /// Number of kept backups.
    pub kept: usize,
    /// Backups kept only because a kept one needs them.
    pub needed: Vec<String>,
    /// Removed remains of backups that were killed.
    pub unfinished: Vec<String>,
    /// Unreadable backups, which are kept.
    pub damaged: Vec<String>,
}

/// Removes the backups that the rules do not keep; with `is_dry_run` it only selects them.
///
/// # Errors
/// If one can't be removed; those before it are gone.
pub fn prune(storage: &Storage, rules: &Rules, now: u64, is_dry_run: bool) -> Result<Pruned> {
    // Claimed before anything is listed: a backup added later may need one selected here.
    let claim = (!is_dry_run).then(|| storage.claim(true)).transpose()?;
    let listed = storage.list()?;
    let mut chosen = choose(&listed.backups, rules, now);
    let mut kept = with_parents(&listed.backups, chosen.clone());
    let ids = listed.backups.iter().map(|backup| backup.id.clone());
    let retired: Vec<String> = ids.filter(|id| !is_dry_run && !kept.contains(id)).collect();
    let is_known = |id: &str| listed.backups.iter().any(|backup| backup.id == id);
    let retired = storage.retire(&retired, is_known)?;
    kept.extend(with_parents(&listed.backups, retired.needed.clone()));
    chosen.retain(|id| !retired.needed.contains(id));
    let (stay, mut removed): (Vec<Backup>, Vec<Backup>) =
        listed.backups.into_iter().partition(|backup| kept.contains(&backup.id));
    let needed: Vec<String> =
        stay.iter().map(|b| b.id.clone()).filter(|id| !chosen.contains(id)).collect();
    // Newest first: at no time is there a backup without its parent.
    for backup in removed.iter().filter(|_| !is_dry_run) {
        storage.remove(&backup.id)?;
    }
    removed.reverse();
    drop(retired);
    let unfinished = claim.map(|_claim| storage.remove_unfinished(UNFINISHED_AGE)).transpose()?;
    let unfinished = unfinished.unwrap_or_default();
    Ok(Pruned { removed, kept: stay.len(), needed, unfinished, damaged: listed.damaged })
}

/// The backups, newest first, that the rules keep; always includes the newest.
fn choose(backups: &[Backup], rules: &Rules, now: u64) -> BTreeSet<String> {
    let days = |backup: &Backup| now.saturating_sub(backup.timestamp) / DAY;
    let mut kept: BTreeSet<String> = backups.first().map(|b| b.id.clone()).into_iter().collect();
    if let Some(older) = rules.older_than_days {
        let stay = backups.iter().filter(|backup| days(backup) < older.max(rules.min_age_days));
        kept.extend(stay.map(|backup| backup.id.clone()));
        return kept;
    }
    // Day 0 was a Thursday.
    let week = |day: u64| (day + 3) / 7;
    let month = |day: u64| {
        let (year, month, _) = date(day);
        year * 12 + month
    };
    let periods: [(usize, &dyn Fn(u64) -> u64); 4] = [
        (rules.hourly, &|second| second / 3_600),
        (rules.daily, &|second| second / DAY),
        (rules.weekly, &|second| week(second / DAY)),
        (rules.monthly, &|second| month(second / DAY)),
    ];
    for (count, period) in periods {
        let mut seen = BTreeSet::new();
        for backup in backups {
            if seen.len() < count && seen.insert(period(backup.timestamp)) {
                kept.insert(backup.id.clone());
            }
        }
    }
    let young = backups.iter().filter(|backup| days(backup) < rules.min_age_days);
    kept.extend(young.map(|backup| backup.id.clone()));
    kept
}

/// The kept backups, and all that they need.
fn with_parents(backups: &[Backup], mut kept: BTreeSet<String>) -> BTreeSet<String> {
    let mut open: Vec<String> = kept.iter().cloned().collect();
    while let Some(id) = open.pop() {
        let Some(backup) = backups.iter().find(|backup| backup.id == id) else { continue };
        let needed = backup.files.iter().map(|file| &file.backup).chain(&backup.parent_id);
        for id in needed {
            if kept.insert(id.clone()) {
                open.push(id.clone());
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::record::sample;
    use super::*;

    fn backup(second: u64, parent: Option<u64>) -> Backup {
        let parent = parent.map(|parent| parent.to_string());
        sample(&second.to_string(), parent.as_deref(), second, Vec::new())
    }

    const RULES: Rules = Rules {
        hourly: 0,
        daily: 0,
        weekly: 0,
        monthly: 0,
        min_age_days: 0,
        older_than_days: None,
    };

    fn kept(backups: &[Backup], rules: Rules, now: u64) -> Vec<u64> {
        let kept = with_parents(backups, choose(backups, &rules, now));
        let mut kept: Vec<u64> = kept.iter().map(|id| id.parse().unwrap()).collect();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        kept
    }

    #[test]
    fn newest_backup_of_each_period_stays() {
        // A Monday, at midnight.
        let monday = 1_772_409_600;
        assert_eq!(date(monday / DAY), (2026, 3, 2));
        let at = [
            monday + 7_200,
            monday + 3_700,
            monday + 3_600,
            monday,
            monday - 1,
            monday - DAY,
            monday - 2 * DAY,
            monday - 40 * DAY,
        ];
        let backups: Vec<Backup> = at.iter().map(|&second| backup(second, None)).collect();
        let now = at[0];
        let case = |rules, expected: &[usize]| {
            let expected: Vec<u64> = expected.iter().map(|&index| at[index]).collect();
            assert_eq!(kept(&backups, rules, now), expected, "{rules:?}");
        };
        case(RULES, &[0]);
        case(Rules { hourly: 3, ..RULES }, &[0, 1, 3]);
        case(Rules { daily: 3, ..RULES }, &[0, 4, 6]);
        case(Rules { weekly: 2, ..RULES }, &[0, 4]);
        case(Rules { monthly: 3, ..RULES }, &[0, 6, 7]);
        case(Rules { hourly: 2, monthly: 9, ..RULES }, &[0, 1, 6, 7]);
        case(Rules { min_age_days: 1, ..RULES }, &[0, 1, 2, 3, 4]);
        case(Rules { older_than_days: Some(2), ..RULES }, &[0, 1, 2, 3, 4, 5]);
        // The newest stays, however old it is.
        assert_eq!(kept(&backups, Rules { older_than_days: Some(1), ..RULES }, 2 * now), [at[0]]);
    }

    #[test]
    fn parents_of_a_kept_backup_stay() {
        let backups = [
            backup(9_000, Some(5_000)),
            backup(7_000, None),
            backup(5_000, Some(3_000)),
            backup(3_000, None),
        ];
        assert_eq!(kept(&backups, RULES, 9_000), [9_000, 5_000, 3_000]);
    }
}
