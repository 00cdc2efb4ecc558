//! Extracts the figures from lull's output for people: the demonstration runs lull as a
//! user does, so it reads the same text.

use crate::observer::Outages;

/// The result of one migration, in text for a table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// The predicted pause.
    pub predicted: Option<String>,
    /// The pause that lull observed.
    pub observed: Option<String>,
    /// The number of rounds of copying.
    pub rounds: usize,
    /// The longest time, in milliseconds, during which the ping had no answer.
    pub outage_ms: f64,
    /// The time from start to end, in seconds.
    pub seconds: f64,
}

impl Figures {
    /// Returns the observed pause in milliseconds, from text like `3,467 ms` or `12.3 s`.
    pub fn observed_ms(&self) -> Option<u64> {
        let (figure, unit) = self.observed.as_deref()?.split_once(' ')?;
        let figure: f64 = figure.replace(',', "").parse().ok()?;
        match unit {
            "ms" => Some(figure as u64),
            "s" => Some((figure * 1e3) as u64),
            _ => None,
        }
    }

    /// Extracts the figures from the output.
    pub fn new(text: &str, outages: &Outages, seconds: f64) -> Self {
        let text = plain(text);
        let pause = text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("all of it")?;
            let mut cells = rest.split("  ").map(str::trim).filter(|c| !c.is_empty());
            Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
        });
        let (predicted, observed) = pause.unzip();
        Self {
            predicted: predicted.or_else(|| refused(&text)),
            observed,
            rounds: text
                .split(['\n', '\r'])
                .filter(|line| ends_a_round(line))
                .count(),
            outage_ms: outages.longest_ms,
            seconds,
        }
    }
}

/// Recognises the end of a round: `lull: round 3: 371 pages sent`. Without the second colon
/// the round is still under way.
fn ends_a_round(line: &str) -> bool {
    let rest = line.strip_prefix("lull: round ").unwrap_or_default();
    rest.trim_start_matches(|c: char| c.is_ascii_digit())
        .starts_with(": ")
}

/// Extracts the bound from a refusal: `the pause would be 3,200 ms expected, 12.3 s at
/// most, and the limit is 8,000 ms`.
fn refused(text: &str) -> Option<String> {
    let (_, rest) = text.rsplit_once("the pause would be ")?;
    let (figures, _) = rest.split_once(" at most")?;
    let figure = figures.rsplit_once("expected, ");
    Some(figure.map_or(figures, |(_, figure)| figure).to_owned())
}

/// Removes the sequences that move a terminal's cursor.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // A CSI sequence ends with a letter.
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moves_figures_are_found() {
        let text = "\u{1b}[2Klull: round 0: 49,000 pages sent in 12.0 s\r\n\
                    lull: round 1  sent 4.0 MiB  left 3.5 MiB\n\
                    lull: round 1: 300 pages sent\n\
                    \n pause           predicted, at most   observed \n\
                    \n all of it                 4,120 ms   3,467 ms \n";
        let figures = Figures::new(text, &Outages::default(), 1.0);
        assert_eq!(figures.predicted.as_deref(), Some("4,120 ms"));
        assert_eq!(figures.observed.as_deref(), Some("3,467 ms"));
        assert_eq!(figures.observed_ms(), Some(3_467));
        assert_eq!(figures.rounds, 2);
    }

    #[test]
    fn a_refusals_prediction_is_found() {
        let text = "Refused: it goes nowhere: the pause would be 3,200 ms expected, 12.3 s at \
                    most (the slowest 2.0 MiB so far took 11.0 s, in round 1), and the limit is \
                    8,000 ms.";
        let figures = Figures::new(text, &Outages::default(), 1.0);
        assert_eq!(figures.predicted.as_deref(), Some("12.3 s"));
        assert_eq!(figures.observed, None);
    }
}
