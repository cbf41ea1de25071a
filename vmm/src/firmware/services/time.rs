//! Time Services (UEFI 2.10, 8.3).

use std::time::{SystemTime, UNIX_EPOCH};

use uefi_raw::time::{Daylight, Time};

use super::{Caller, Refusal, not_null};
use crate::mmu::Va;

/// The clock: the host's, until SetTime sets it, and an alarm.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Clock {
    /// What SetTime has added to the host's clock.
    offset_seconds: i64,
    /// As SetTime had it; UTC at first.
    time_zone: i16,
    daylight: u8,
    alarm: Alarm,
}

/// The wakeup alarm.
#[derive(Clone, Copy, Debug)]
struct Alarm {
    is_enabled: bool,
    time: [u8; TIME_BYTES],
}

impl Default for Alarm {
    /// Off, at the beginning of the millennium: a time must be shown.
    fn default() -> Self {
        Self { is_enabled: false, time: to_bytes(2000, 1, 1, 0, 0, 0) }
    }
}

/// GetTime(*Time, *Capabilities OPTIONAL) (8.3.1).
pub(super) fn get_time(clock: &Clock, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [time, capabilities, ..] = caller.args();
    let time = not_null("Time", time)?;
    let now = clock.now().ok_or(Refusal::NoTime)?;
    caller.write("Time", time, &now)?;
    if capabilities != 0 {
        let mut bytes = [0; CAPABILITIES_BYTES];
        bytes[..4].copy_from_slice(&RESOLUTION_HZ.to_le_bytes());
        bytes[4..8].copy_from_slice(&ACCURACY.to_le_bytes());
        caller.write("Capabilities", Va(capabilities), &bytes)?;
    }
    Ok(())
}

/// SetTime(*Time) (8.3.2). The clock counts whole seconds; nanoseconds are dropped.
pub(super) fn set_time(clock: &mut Clock, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [time, ..] = caller.args();
    let time = read_time(caller, not_null("Time", time)?)?;
    let now = host_seconds().ok_or(Refusal::NoTime)?;
    clock.offset_seconds = seconds_of(&time).saturating_sub(now);
    (clock.time_zone, clock.daylight) = (time.time_zone, time.daylight.bits());
    Ok(())
}

/// GetWakeupTime(*Enabled, *Pending, *Time) (8.3.3).
pub(super) fn get_wakeup_time(clock: &Clock, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [enabled, pending, time, _] = caller.args();
    let enabled = not_null("Enabled", enabled)?;
    let pending = not_null("Pending", pending)?;
    let time = not_null("Time", time)?;
    let Alarm { is_enabled, time: set_to } = clock.alarm;
    let is_past = clock.now().is_some_and(|now| seconds_of(&from_bytes(&now)) >= seconds_of(&from_bytes(&set_to)));
    caller.write("Enabled", enabled, &[is_enabled.into()])?;
    caller.write("Pending", pending, &[(is_enabled && is_past).into()])?;
    caller.write("Time", time, &set_to)
}

/// SetWakeupTime(Enable, *Time OPTIONAL) (8.3.4). Time must be there to enable the alarm.
pub(super) fn set_wakeup_time(clock: &mut Clock, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [enable, time, ..] = caller.args();
    // A BOOLEAN is one byte (2.3.1).
    if enable as u8 == 0 {
        clock.alarm.is_enabled = false;
        return Ok(());
    }
    let time = not_null("Time", time)?;
    read_time(caller, time)?;
    let time = caller.array("Time", time)?;
    clock.alarm = Alarm { is_enabled: true, time };
    Ok(())
}

impl Clock {
    /// EFI_TIME, to the second; None before 1900 and after 9999, which is as far as Year goes.
    fn now(&self) -> Option<[u8; TIME_BYTES]> {
        let mut bytes = efi_time(host_seconds()?.checked_add(self.offset_seconds)?)?;
        bytes[12..14].copy_from_slice(&self.time_zone.to_le_bytes());
        bytes[14] = self.daylight;
        Some(bytes)
    }
}

/// Bytes of EFI_TIME (8.3.1).
const TIME_BYTES: usize = 16;

/// Bytes of EFI_TIME_CAPABILITIES up to SetsToZero (8.3.1), which is FALSE; padding is left alone.
const CAPABILITIES_BYTES: usize = 9;

/// EFI_TIME_CAPABILITIES.Resolution of a "normal PC-AT CMOS RTC device" (8.3.1).
const RESOLUTION_HZ: u32 = 1;

/// EFI_TIME_CAPABILITIES.Accuracy of the same, 50 ppm, in units of 1e-6 ppm (8.3.1).
const ACCURACY: u32 = 50_000_000;

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// The days of 10,000 years, which are 25 eras of 400.
const MAX_DAYS: i64 = 25 * 146_097 + 366;

/// Seconds of the host's clock since 1970-01-01; None if it is set to before that.
fn host_seconds() -> Option<i64> {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// An EFI_TIME that a caller gives, its fields in range (8.3.1).
fn read_time(caller: &mut Caller<'_>, at: Va) -> Result<Time, Refusal> {
    let time = from_bytes(&caller.array("Time", at)?);
    let days = days_of_month(time.year, time.month);
    let zone = i64::from(time.time_zone);
    let unspecified = i64::from(Time::UNSPECIFIED_TIMEZONE);
    for (field, value, is_right) in [
        ("Year", time.year.into(), (1900..=9999).contains(&time.year)),
        ("Month", time.month.into(), (1..=12).contains(&time.month)),
        ("Day", time.day.into(), (1..=days).contains(&time.day)),
        ("Hour", time.hour.into(), time.hour <= 23),
        ("Minute", time.minute.into(), time.minute <= 59),
        ("Second", time.second.into(), time.second <= 59),
        ("Nanosecond", time.nanosecond.into(), time.nanosecond <= 999_999_999),
        ("TimeZone", zone, (-1440..=1440).contains(&zone) || zone == unspecified),
        ("Daylight", time.daylight.bits().into(), Daylight::all().contains(time.daylight)),
    ] {
        if !is_right {
            return Err(Refusal::TimeField { field, value });
        }
    }
    Ok(time)
}

fn days_of_month(year: u16, month: u8) -> u8 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn from_bytes(bytes: &[u8; TIME_BYTES]) -> Time {
    let [y0, y1, month, day, hour, minute, second, pad1, n0, n1, n2, n3, z0, z1, daylight, pad2] = *bytes;
    Time {
        year: u16::from_le_bytes([y0, y1]),
        month,
        day,
        hour,
        minute,
        second,
        pad1,
        nanosecond: u32::from_le_bytes([n0, n1, n2, n3]),
        time_zone: i16::from_le_bytes([z0, z1]),
        daylight: Daylight::from_bits_retain(daylight),
        pad2,
    }
}

/// In UTC and without daylight time; nanoseconds are zero.
fn to_bytes(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> [u8; TIME_BYTES] {
    let [y0, y1] = year.to_le_bytes();
    [y0, y1, month, day, hour, minute, second, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// EFI_TIME (8.3.1), so many seconds after 1970-01-01.
fn efi_time(seconds: i64) -> Option<[u8; TIME_BYTES]> {
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY))?;
    let second_of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    Some(to_bytes(year as u16, month as u8, day as u8, hour as u8, minute as u8, second as u8))
}

/// Seconds from 1970-01-01 to a time whose fields are in range, as its own zone counts.
fn seconds_of(time: &Time) -> i64 {
    let days = days_from_civil(time.year.into(), time.month.into(), time.day.into());
    let minutes = i64::from(time.hour).saturating_mul(60).saturating_add(time.minute.into());
    let seconds = minutes.saturating_mul(60).saturating_add(time.second.into());
    days.saturating_mul(SECONDS_PER_DAY).saturating_add(seconds)
}

/// The inverse of [`civil_from_days`], after the same paper (`days_from_civil`), for years after 0.
#[allow(clippy::arithmetic_side_effects, reason = "of a year of 16 bits, a month and a day no term has 40 bits")]
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The Gregorian year, month and day, `days` after 1970-01-01; None outside 1900 to 9999.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`. Years begin in March there, so
/// that a leap day is the last of its year, and eras are the 400 years after which the calendar repeats.
#[allow(clippy::arithmetic_side_effects, reason = "of fewer than MAX_DAYS days no term has 40 bits")]
fn civil_from_days(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(719_468).filter(|days| (0..MAX_DAYS).contains(days))?; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (1900..=9999).contains(&year).then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use efibed_stub::Service;
    use proptest::prelude::*;
    use uefi_raw::Status;

    use super::super::super::test_memory::Bed;
    use super::*;

    const AT: u64 = 0x5000;
    const OTHER: u64 = 0x6003;

    fn at(seconds: i64) -> Option<Time> {
        efi_time(seconds).map(|bytes| from_bytes(&bytes))
    }

    #[test]
    fn known_seconds_are_known_dates() {
        // From `date -u -d @SECONDS`.
        for (seconds, expected) in [
            (-2_208_988_800, "1900-01-01 00:00:00.000000000UTC+0"),
            (-1, "1969-12-31 23:59:59.000000000UTC+0"),
            (0, "1970-01-01 00:00:00.000000000UTC+0"),
            (951_782_399, "2000-02-28 23:59:59.000000000UTC+0"),
            (951_782_400, "2000-02-29 00:00:00.000000000UTC+0"),
            (1_380_724_245, "2013-10-02 14:30:45.000000000UTC+0"),
            (4_107_542_400, "2100-03-01 00:00:00.000000000UTC+0"),
            (253_402_300_799, "9999-12-31 23:59:59.000000000UTC+0"),
        ] {
            assert_eq!(at(seconds).unwrap().to_string(), expected, "{seconds}");
            assert_eq!(seconds_of(&at(seconds).unwrap()), seconds);
        }
        assert_eq!(at(253_402_300_800), None);
        assert_eq!(at(-2_208_988_801), None);
        assert_eq!([i64::MIN, i64::MAX].map(at), [None, None]);
    }

    proptest! {
        #[test]
        fn every_time_is_valid_and_comes_back(seconds in -2_208_988_800..253_402_300_800i64) {
            let time = at(seconds).unwrap();
            prop_assert!(time.is_valid());
            prop_assert_eq!(seconds_of(&time), seconds);
        }

        #[test]
        fn days_follow_each_other(day in -25_567..2_932_895i64) {
            let today = civil_from_days(day).unwrap();
            let tomorrow = civil_from_days(day + 1).unwrap();
            prop_assert!(today < tomorrow);
            prop_assert!(tomorrow.2 == today.2 + 1 || tomorrow.2 == 1 && today.2 >= 28);
            prop_assert_eq!(tomorrow.2 == 1, today.2 == i64::from(days_of_month(today.0 as u16, today.1 as u8)));
        }
    }

    fn bed() -> Bed {
        let mut bed = Bed::new();
        for page in [AT, 0x6000, 0x7000] {
            bed.memory.put(page, &[0xEE; 4096]);
        }
        bed
    }

    fn shown(bed: &mut Bed) -> Time {
        assert_eq!(bed.call(Service::GetTime, &[AT, 0]), Status::SUCCESS);
        from_bytes(&bed.array(AT))
    }

    #[test]
    fn get_time_shows_the_hosts_clock_and_a_pc_clocks_capabilities() {
        let mut bed = bed();
        assert_eq!(bed.call(Service::GetTime, &[AT, OTHER]), Status::SUCCESS);
        let time = from_bytes(&bed.array(AT));
        assert!(time.is_valid());
        assert!((seconds_of(&time) - host_seconds().unwrap()).abs() <= 2);
        let capabilities: [u8; 12] = bed.array(OTHER);
        assert_eq!(capabilities, [1, 0, 0, 0, 0x80, 0xF0, 0xFA, 0x02, 0, 0xEE, 0xEE, 0xEE]);
        assert_eq!(bed.array(AT + 16), [0xEE; 16]);
    }

    #[test]
    fn get_time_without_a_place_for_it_is_an_invalid_parameter() {
        let mut bed = bed();
        assert_eq!(bed.call(Service::GetTime, &[0, OTHER]), Status::INVALID_PARAMETER);
        assert_eq!(bed.refusal(), Some(Refusal::Null { argument: "Time" }));
        assert_eq!(bed.array(OTHER), [0xEE; 16]);
    }

    #[test]
    fn a_time_that_was_set_goes_on_from_there() {
        let mut bed = bed();
        let mut time = to_bytes(2001, 2, 3, 4, 5, 6);
        time[12..15].copy_from_slice(&[60, 0, 1]);
        bed.memory.put(AT, &time);
        assert_eq!(bed.call(Service::SetTime, &[AT]), Status::SUCCESS);
        let shown = shown(&mut bed);
        assert!((0..=2).contains(&(seconds_of(&shown) - seconds_of(&from_bytes(&time)))), "{shown}");
        assert_eq!((shown.time_zone, shown.daylight), (60, Daylight::ADJUST_DAYLIGHT));
    }

    #[test]
    fn each_field_out_of_range_is_an_invalid_parameter_and_changes_nothing() {
        let good = to_bytes(2000, 2, 29, 23, 59, 59);
        let with = |at: usize, bytes: &[u8]| {
            let mut time = good;
            time[at..][..bytes.len()].copy_from_slice(bytes);
            time
        };
        for (field, time) in [
            ("Year", with(0, &1899u16.to_le_bytes())),
            ("Year", with(0, &10000u16.to_le_bytes())),
            ("Month", with(2, &[0])),
            ("Month", with(2, &[13])),
            ("Day", with(3, &[0])),
            ("Day", with(3, &[30])),
            ("Day", with(0, &1900u16.to_le_bytes())),
            ("Hour", with(4, &[24])),
            ("Minute", with(5, &[60])),
            ("Second", with(6, &[60])),
            ("Nanosecond", with(8, &1_000_000_000u32.to_le_bytes())),
            ("TimeZone", with(12, &1441i16.to_le_bytes())),
            ("TimeZone", with(12, &(-1441i16).to_le_bytes())),
            ("Daylight", with(14, &[4])),
        ] {
            let mut bed = bed();
            bed.memory.put(AT, &time);
            for (service, args) in [(Service::SetTime, vec![AT]), (Service::SetWakeupTime, vec![1, AT])] {
                assert_eq!(bed.call(service, &args), Status::INVALID_PARAMETER, "{field}");
                assert!(matches!(bed.refusal(), Some(Refusal::TimeField { field: it, .. }) if it == field), "{field}");
            }
            assert!((seconds_of(&shown(&mut bed)) - host_seconds().unwrap()).abs() <= 2);
        }
        let mut bed = bed();
        for time in [good, with(12, &Time::UNSPECIFIED_TIMEZONE.to_le_bytes())] {
            bed.memory.put(AT, &time);
            assert_eq!(bed.call(Service::SetTime, &[AT]), Status::SUCCESS);
        }
        assert_eq!(bed.call(Service::SetTime, &[0]), Status::INVALID_PARAMETER);
    }

    #[test]
    fn the_alarm_is_off_until_it_is_set_and_pending_once_its_time_is_past() {
        let (enabled, pending, time) = (AT, AT + 1, OTHER);
        let mut bed = bed();
        let read = |bed: &mut Bed| {
            assert_eq!(bed.call(Service::GetWakeupTime, &[enabled, pending, time]), Status::SUCCESS);
            (bed.array::<2>(AT), bed.array::<16>(time))
        };
        let (flags, at_first) = read(&mut bed);
        assert_eq!(flags, [0, 0]);
        assert!(from_bytes(&at_first).is_valid());
        for (year, is_past) in [(1999, 1), (9999, 0)] {
            let alarm = to_bytes(year, 12, 31, 1, 2, 3);
            bed.memory.put(0x7000, &alarm);
            // What is above a BOOLEAN's byte has no meaning.
            assert_eq!(bed.call(Service::SetWakeupTime, &[0xFF01, 0x7000]), Status::SUCCESS);
            assert_eq!(read(&mut bed), ([1, is_past], alarm));
        }
        assert_eq!(bed.call(Service::SetWakeupTime, &[0xFF00, 0]), Status::SUCCESS);
        assert_eq!(read(&mut bed).0, [0, 0]);
        assert_eq!(bed.call(Service::SetWakeupTime, &[1, 0]), Status::INVALID_PARAMETER);
        for null in 0..3 {
            let mut args = [enabled, pending, time];
            args[null] = 0;
            assert_eq!(bed.call(Service::GetWakeupTime, &args), Status::INVALID_PARAMETER);
        }
    }
}
