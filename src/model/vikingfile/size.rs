//! Amounts as people write them: durations, memory, cores. Pure; every overflow is a refusal.

const KIB: u64 = 1024;
/// A thousandth is the finest fraction that amounts are kept in.
const FRACTION_DIGITS: usize = 3;

/// Forms of a duration.
pub(super) const DURATION_ALLOWED: &str = "durations such as 2s, 500ms, 10m, 1h30m, or seconds";
/// Forms of an amount of memory.
pub(crate) const MEMORY_ALLOWED: &str = "amounts such as 256M, 512Mi, 1.5G, or bytes";
/// Forms of an amount of processor.
pub(crate) const CPU_ALLOWED: &str = "cores such as 0.5 or 2, down to 0.001";

/// Milliseconds of `2s`, `500ms`, `10m`, `1h30m`, or bare seconds.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    if let Some(ms) = thousandths(text) {
        return Some(ms);
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let (amount, unit, tail) = split_unit(rest)?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(scaled(amount, factor)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Bytes of `256M`, `1G`, `512Mi`, or bare bytes. Units count by 1024, as Docker counts.
pub(crate) fn memory_bytes(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (amount, unit) = text.split_at_checked(end)?;
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" | "ki" => KIB,
        "m" | "mi" => KIB * KIB,
        "g" | "gi" => KIB * KIB * KIB,
        "t" | "ti" => KIB * KIB * KIB * KIB,
        _ => return None,
    };
    scaled_down(amount, factor)
}

/// Thousandths of a core.
pub(crate) fn cpu_millis(text: &str) -> Option<u64> {
    thousandths(text).filter(|millis| *millis > 0)
}

/// `1.5` as 1500: decimal digits with at most three behind the point.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > FRACTION_DIGITS {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<FRACTION_DIGITS$}").parse().ok()?;
    whole.checked_mul(1_000)?.checked_add(fraction)
}

/// `amount` times `factor`; refused when not whole.
fn scaled(amount: &str, factor: u64) -> Option<u64> {
    let product = thousandths(amount)?.checked_mul(factor)?;
    (product % 1_000 == 0).then_some(product / 1_000)
}

/// `amount` times `factor`, rounded down to a whole byte: `0.1G` is meant, although it is not whole.
fn scaled_down(amount: &str, factor: u64) -> Option<u64> {
    let whole_bytes = factor > 1 || !amount.contains('.');
    let product = u128::from(thousandths(amount)?) * u128::from(factor);
    u64::try_from(product / 1_000).ok().filter(|_| whole_bytes)
}

/// `30m…` as `30`, `m` and the rest.
fn split_unit(text: &str) -> Option<(&str, &str, &str)> {
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let (amount, rest) = text.split_at_checked(text.find(|c| !number(c))?)?;
    let (unit, tail) = rest.split_at_checked(rest.find(number).unwrap_or(rest.len()))?;
    Some((amount, unit, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_every_form() {
        for (text, ms) in [
            ("2s", 2_000),
            ("500ms", 500),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("2", 2_000),
            ("0.25", 250),
            ("0", 0),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for bad in [
            "",
            "s",
            "2x",
            "-2s",
            "2 s",
            "1e3",
            "0.0005s",
            "0.5ms",
            "2s3",
            "99999999999999999999h",
            "18446744073709551h",
            ".5",
            "5.",
            "+1",
        ] {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn memory_in_every_form() {
        for (text, bytes) in [
            ("256M", 256 << 20),
            ("1G", 1 << 30),
            ("512Mi", 512 << 20),
            ("512MiB", 512 << 20),
            ("64k", 64 << 10),
            ("1.5g", 3 << 29),
            ("1048576", 1 << 20),
            ("100b", 100),
        ] {
            assert_eq!(memory_bytes(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "M",
            "1.5",
            "-1M",
            "1 M",
            "1X",
            "1e9",
            "99999999999T",
            "1MM",
        ] {
            assert_eq!(memory_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn cores_are_thousandths() {
        assert_eq!(cpu_millis("0.5"), Some(500));
        assert_eq!(cpu_millis("2"), Some(2_000));
        for bad in ["0", "0.0001", "-1", "1/2", "500m", "", "nan", "inf"] {
            assert_eq!(cpu_millis(bad), None, "{bad}");
        }
    }
}
