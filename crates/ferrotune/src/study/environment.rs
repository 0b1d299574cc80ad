//! What a report says about the machine.

use tch::{Device, Kind};

use super::Environment;
use crate::compute;

impl Environment {
    /// The present machine and versions.
    #[must_use]
    pub fn detect(device: Device, kind: Kind) -> Self {
        let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
        let memory_kib: u64 = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        Self {
            ferrotune: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch: ferrotune_torch::version::runtime().to_string(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor,
            threads: tch::get_num_threads() as u64,
            device: compute::device_name(device),
            dtype: compute::kind_name(kind).to_owned(),
            memory_bytes: memory_kib * 1024,
        }
    }
}

/// The value of the first line `name : value` of a file of the kernel's.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Seconds since 1970 as `YYYY-MM-DD HH:MM UTC`, by the civil calendar (Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
pub(super) fn civil(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days as i64 + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn dates_follow_the_civil_calendar() {
        assert_eq!(civil(0), "1970-01-01 00:00 UTC");
        assert_eq!(civil(951_782_400), "2000-02-29 00:00 UTC"); // date -u -d @951782400
        assert_eq!(civil(1_798_761_599), "2026-12-31 23:59 UTC"); // date -u -d @1798761599
    }
}
