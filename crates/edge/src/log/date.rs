//! The time of a line, made anew only when the second changes.

use minato_model::time::Moment;

use super::Format;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The second that was written last.
#[derive(Debug)]
pub(crate) struct Date {
    format: Format,
    second: i64,
    text: String,
}

impl Date {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, second: i64::MIN, text: String::new() }
    }

    /// Writes a moment, in milliseconds since 1970.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, millis: i64) {
        let second = millis.div_euclid(1000);
        if second != self.second {
            self.second = second;
            self.text = match self.format {
                Format::Json => to_the_second(second),
                Format::Common => common(&to_the_second(second)),
            };
        }
        out.extend_from_slice(self.text.as_bytes());
        if self.format == Format::Json {
            let rest = millis.rem_euclid(1000);
            out.push(b'.');
            for unit in [100, 10, 1] {
                out.push(b'0' + u8::try_from(rest / unit % 10).unwrap_or(0));
            }
            out.push(b'Z');
        }
    }
}

/// As in `2026-11-24T07:40:12`.
fn to_the_second(second: i64) -> String {
    let text = Moment(second.saturating_mul(1000)).to_string();
    text.get(..19).unwrap_or("1970-01-01T00:00:00").to_owned()
}

/// As in `24/Nov/2026:07:40:12 +0000`.
fn common(text: &str) -> String {
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let month = part(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    format!("{}/{}/{}:{} +0000", part(8, 10), month.unwrap_or(&"Jan"), part(0, 4), part(11, 19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_in_each_format() {
        let check = |format, moments: &[i64]| {
            let mut date = Date::new(format);
            let mut out = Vec::new();
            for moment in moments {
                date.write(&mut out, *moment);
                out.push(b' ');
            }
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            check(Format::Json, &[1_795_506_012_007, 1_795_506_012_999, 1_795_506_013_000]),
            "2026-11-24T07:40:12.007Z 2026-11-24T07:40:12.999Z 2026-11-24T07:40:13.000Z "
        );
        assert_eq!(check(Format::Common, &[1_795_506_012_999]), "24/Nov/2026:07:40:12 +0000 ");
        assert_eq!(check(Format::Json, &[-1]), "1969-12-31T23:59:59.999Z ");
    }
}
