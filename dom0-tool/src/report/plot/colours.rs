//! The palette for light and for dark backgrounds.

use plotters::style::RGBColor;

/// The background of the drawing.
pub const CARD: RGBColor = RGBColor(0xFF, 0xFF, 0xFE);
/// The colour of text and axes.
pub const TEXT: RGBColor = RGBColor(0x24, 0x29, 0x2F);
/// The colour of grid and frames.
pub const FAINT: RGBColor = RGBColor(0xD8, 0xDE, 0xE4);
/// The colour of what was predicted or sent.
pub const FIRST: RGBColor = RGBColor(0x1F, 0x6F, 0xC4);
/// A paler shade of [`FIRST`], for what lies behind.
pub const BEHIND: RGBColor = RGBColor(0xB6, 0xD3, 0xF2);
/// The colour of what the guest did.
pub const SECOND: RGBColor = RGBColor(0xD9, 0x7A, 0x06);
/// The colour of what was observed.
pub const OBSERVED: RGBColor = RGBColor(0x1B, 0x87, 0x4B);
/// The colour of what must not be exceeded.
pub const LIMIT: RGBColor = RGBColor(0xC9, 0x2A, 0x2A);

/// The colours for a dark background, in the same order.
const PAIRS: [(RGBColor, &str); 8] = [
    (CARD, "#16191D"),
    (TEXT, "#E3E7EB"),
    (FAINT, "#3A4149"),
    (FIRST, "#5CA9F5"),
    (BEHIND, "#27476B"),
    (SECOND, "#F0A33C"),
    (OBSERVED, "#4CC482"),
    (LIMIT, "#FF7470"),
];

/// The drawing with a style that exchanges the colours where the viewer prefers dark ones.
pub fn with_dark(svg: &str) -> String {
    let mut rules = String::new();
    for (RGBColor(red, green, blue), dark) in PAIRS {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        for what in ["fill", "stroke"] {
            rules.push_str(&format!("[{what}=\"{light}\"]{{{what}:{dark}}}"));
        }
    }
    let style = format!("<style>@media (prefers-color-scheme: dark){{{rules}}}</style>");
    match svg
        .find("<svg")
        .and_then(|at| Some(at + svg[at..].find('>')?))
    {
        Some(at) => format!("{}\n{style}{}", &svg[..=at], &svg[at + 1..]),
        None => svg.to_owned(),
    }
}
