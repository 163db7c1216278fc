//! From when until when a certificate is valid. Reads as much of its DER (X.690) as that takes, from
//! what a CA sent; never reads beyond it, and judges nothing.

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

const DAY_S: i64 = 86_400;

/// First and last moment, Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from_ms: u64,
    pub(super) until_ms: u64,
}

/// The validity in a certificate (RFC 5280, 4.1); none when that cannot be made out.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let (certificate, _) = expect(SEQUENCE, der)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    if rest.first() == Some(&VERSION) {
        rest = expect(VERSION, rest)?.1;
    }
    // Serial number, algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = expect(tag, rest)?.1;
    }
    let (times, _) = expect(SEQUENCE, rest)?;
    let (from_ms, times) = time(times)?;
    let (until_ms, _) = time(times)?;
    (from_ms < until_ms).then_some(Validity { from_ms, until_ms })
}

/// An element of this tag: what is in it, and what follows.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, inside, rest) = element(der)?;
    (found == tag).then_some((inside, rest))
}

fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // More than four bytes of length would be more than anybody sends.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let len = bytes
                .iter()
                .fold(0_usize, |len, byte| (len << 8) | usize::from(*byte));
            (len, rest)
        }
        _ => return None,
    };
    let (inside, rest) = rest.split_at_checked(len)?;
    Some((tag, inside, rest))
}

/// A time and what follows it. Both kinds end in `Z` (RFC 5280, 4.1.2.5).
fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let (tag, text, rest) = element(der)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text)
        }
        GENERALIZED_TIME => {
            let (year, text) = text.split_at_checked(4)?;
            (year.parse().ok()?, text)
        }
        _ => return None,
    };
    if text.len() != 10 {
        return None;
    }
    let number = |at: usize| text.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (number(0)?, number(2)?);
    let (hour, minute, second) = (number(4)?, number(6)?, number(8)?);
    let sound = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !sound || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second;
    Some((u64::try_from(seconds).ok()? * 1_000, rest))
}

/// Days since 1970 began. Years begin in March here, so that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let month = (month + 9) % 12;
    let leaps = year / 4 - year / 100 + year / 400;
    // Months from March on have 31, 30, 31, 30, 31 days, and then again.
    let of_year = (month * 153 + 2) / 5 + day - 1;
    // 719_468 days lie between the first of March of the year 0 and 1970.
    year * 365 + leaps + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn ms(text: &str) -> u64 {
        let time = humantime::parse_rfc3339(text).unwrap();
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(since.as_millis()).unwrap()
    }

    #[test]
    fn both_kinds_of_time_are_read_on_leap_days_too() {
        for (from, until, said) in [
            ((2024, 2, 29), (2024, 3, 1), ["2024-02-29", "2024-03-01"]),
            ((1999, 12, 31), (2049, 1, 1), ["1999-12-31", "2049-01-01"]),
            ((2051, 1, 1), (2100, 3, 1), ["2051-01-01", "2100-03-01"]),
        ] {
            let found = validity(&certificate(from, until)).unwrap();
            let want = said.map(|day| ms(&format!("{day}T00:00:00Z")));
            assert_eq!([found.from_ms, found.until_ms], want);
        }
    }

    #[test]
    fn a_certificate_that_is_cut_off_anywhere_is_refused() {
        let whole = certificate((2024, 1, 1), (2025, 1, 1));
        for len in 0..whole.len() {
            assert_eq!(validity(&whole[..len]), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            validity(&bytes);
        }

        #[test]
        fn no_byte_of_a_certificate_that_is_changed_makes_it_panic(at in 0_usize..200, byte in any::<u8>()) {
            let mut whole = certificate((2024, 1, 1), (2025, 1, 1));
            whole[at] = byte;
            validity(&whole);
        }
    }
}
