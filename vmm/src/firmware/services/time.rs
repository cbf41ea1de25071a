//! Time Services (UEFI 2.10, 8.3).

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Firmware, Refusal, StubCall};

/// GetTime: the host's time, in UTC. The stub does the storing; see [`mod@efibed_stub::image`].
pub(super) fn get_time(firmware: &Firmware, regs: &mut StubCall) -> Result<(), Refusal> {
    if regs.rcx == 0 {
        return Err(Refusal::NullTime);
    }
    [regs.r10, regs.r11] = efi_time(SystemTime::now()).ok_or(Refusal::NoTime)?;
    regs.r8 = u64::from(RESOLUTION_HZ) | u64::from(ACCURACY) << 32;
    regs.r9 = firmware.clock_data();
    Ok(())
}

/// EFI_TIME_CAPABILITIES.Resolution of a "normal PC-AT CMOS RTC device" (8.3.1).
const RESOLUTION_HZ: u32 = 1;

/// EFI_TIME_CAPABILITIES.Accuracy of the same, 50 ppm, in units of 1e-6 ppm (8.3.1).
const ACCURACY: u32 = 50_000_000;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// EFI_TIME (8.3.1) as two numbers in memory order, in UTC, without daylight time, to the second.
/// None before 1970 and after 9999, which is as far as Year goes.
fn efi_time(time: SystemTime) -> Option<[u64; 2]> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (year, month, day) = civil_from_days(seconds / SECONDS_PER_DAY)?;
    let second_of_day = seconds % SECONDS_PER_DAY;
    let date = year | month << 16 | day << 24;
    let hour = second_of_day / 3600;
    let minute = second_of_day / 60 % 60;
    let second = second_of_day % 60;
    // Nanosecond, TimeZone (minutes from UTC) and Daylight, the other eight bytes, are all zero.
    Some([date | hour << 32 | minute << 40 | second << 48, 0])
}

/// The Gregorian year, month and day, `days` after 1970-01-01; None after 9999.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`. Years begin in March there, so
/// that a leap day is the last of its year, and eras are the 400 years after which the calendar repeats.
fn civil_from_days(days: u64) -> Option<(u64, u64, u64)> {
    let days = days.checked_add(719_468)?; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year <= 9999).then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use efibed_stub::Service;
    use proptest::prelude::*;
    use uefi_raw::Status;
    use uefi_raw::time::{Daylight, Time};

    use super::super::super::test_memory::{TestMemory, code_and_data, trap};
    use super::*;

    fn at(seconds: u64) -> Option<Time> {
        let [low, high] = efi_time(UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?)?;
        let low = low.to_le_bytes();
        let high = high.to_le_bytes();
        Some(Time {
            year: u16::from_le_bytes([low[0], low[1]]),
            month: low[2],
            day: low[3],
            hour: low[4],
            minute: low[5],
            second: low[6],
            pad1: low[7],
            nanosecond: u32::from_le_bytes([high[0], high[1], high[2], high[3]]),
            time_zone: i16::from_le_bytes([high[4], high[5]]),
            daylight: Daylight::from_bits_retain(high[6]),
            pad2: high[7],
        })
    }

    #[test]
    fn known_seconds_are_known_dates() {
        // From `date -u -d @SECONDS`.
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00.000000000UTC+0"),
            (951_782_399, "2000-02-28 23:59:59.000000000UTC+0"),
            (951_782_400, "2000-02-29 00:00:00.000000000UTC+0"),
            (1_380_724_245, "2013-10-02 14:30:45.000000000UTC+0"),
            (4_107_542_400, "2100-03-01 00:00:00.000000000UTC+0"),
            (253_402_300_799, "9999-12-31 23:59:59.000000000UTC+0"),
        ] {
            assert_eq!(at(seconds).unwrap().to_string(), expected, "{seconds}");
        }
        assert_eq!(at(253_402_300_800), None);
    }

    proptest! {
        #[test]
        fn every_time_is_valid(seconds in 0..253_402_300_800u64) {
            prop_assert!(at(seconds).unwrap().is_valid());
        }

        #[test]
        fn days_follow_each_other(day in 0..2_932_895u64) {
            let today = civil_from_days(day).unwrap();
            let tomorrow = civil_from_days(day + 1).unwrap();
            prop_assert!(today < tomorrow);
            prop_assert!(tomorrow.2 == today.2 + 1 || tomorrow.2 == 1 && today.2 >= 28);
        }
    }

    #[test]
    fn get_time_leaves_the_time_and_firmwares_own_data_to_the_stub() {
        let mut firmware = Firmware::lay_out(&code_and_data(), |_| true).unwrap();
        let mut memory = TestMemory::with_firmware(&firmware);
        let mut regs = trap(firmware.entry(Service::GetTime));
        regs.rcx = 0x1000;
        let call = firmware.answer(&mut regs, &mut memory).unwrap();
        assert_eq!((call.status, call.refusal), (Status::SUCCESS, None));
        assert_eq!(regs.rax, 0);
        assert!((1970..=9999).contains(&(regs.r10 as u16)));
        assert_eq!(regs.r8, 50_000_000 << 32 | 1);
        let data_page = firmware.pages().nth(1).unwrap().0;
        assert!((data_page + 16..data_page + 4088 - 16).contains(&regs.r9));
    }

    #[test]
    fn get_time_without_time_is_an_invalid_parameter() {
        let mut firmware = Firmware::lay_out(&code_and_data(), |_| true).unwrap();
        let mut memory = TestMemory::with_firmware(&firmware);
        let mut regs = trap(firmware.entry(Service::GetTime));
        let call = firmware.answer(&mut regs, &mut memory).unwrap();
        assert_eq!(call.status, Status::INVALID_PARAMETER);
        assert_eq!(call.refusal, Some(Refusal::NullTime));
        assert_eq!(regs.rax, Status::INVALID_PARAMETER.0 as u64);
    }
}
