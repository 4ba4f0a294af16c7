//! Figures from samples, and tables of them.

use std::time::Duration;

/// The value below which a share of the samples lies (nearest rank); zero without samples.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among a few hundred"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied().unwrap_or_default()
}

/// The middle of the samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "counts of what a benchmark did")]
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}

/// A figure with two places.
pub(crate) fn number(value: f64) -> String {
    format!("{value:.2}")
}

/// A row of a table of times: a name, how many samples there are, p50, p90, p99 and the greatest.
pub(crate) fn times(name: &str, samples: &[f64]) -> Vec<String> {
    let figures = [0.5, 0.9, 0.99, 1.0].map(|share| number(quantile(samples, share)));
    [vec![name.to_owned(), samples.len().to_string()], figures.to_vec()].concat()
}

/// Different texts with their numbers, most frequent first, as far as a reader wants them.
pub(crate) fn kinds(texts: &[String]) -> String {
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    for text in texts {
        *kinds.entry(text).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|&(_, number)| std::cmp::Reverse(number));
    let lines = kinds.iter().take(8).map(|(text, number)| format!("{number} × {text}\n"));
    lines.collect()
}

/// A table as Markdown reads it.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = line(&head);
    text.push_str(&line(&vec!["---".to_owned(); head.len()]));
    text.extend(rows.iter().map(|row| line(row)));
    text
}

#[cfg(test)]
mod tests {
    use super::{kinds, median, quantile, table};

    #[test]
    fn quantiles_are_samples() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert!((median(&samples) - 2.0).abs() < f64::EPSILON);
        assert!((quantile(&samples, 0.99) - 4.0).abs() < f64::EPSILON);
        assert!((quantile(&samples, 0.0) - 1.0).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn kinds_are_counted() {
        assert_eq!(kinds(&["a", "b", "b"].map(str::to_owned)), "2 × b\n1 × a\n");
    }

    #[test]
    fn tables_are_markdown() {
        assert_eq!(
            table(&["a", "b"], &[vec!["1".to_owned(), "2".to_owned()]]),
            "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
        );
    }
}
