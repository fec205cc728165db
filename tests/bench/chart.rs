//! Draws ratios as a bar chart: a small SVG without scripts and fonts.
//!
//! Pages that may be light or dark show it as an image, so its colors are readable on both.

use std::fmt::Write;

use crate::compare::Comparison;

const LABELS: f64 = 250.0;
const WIDTH: f64 = 640.0;
const ROW: f64 = 36.0;
const TOP: f64 = 28.0;
const BAR: f64 = 13.0;

/// The maximum length of a bar. A longer one is cut off and marked, because only ratios near 1 matter.
const LONGEST: f64 = 2.0;

/// Draws the rates of quinistry relative to nginx and to the limit.
pub fn draw(comparisons: &[Comparison]) -> String {
    // The figures need space to the right of the longest bar.
    let scale = (WIDTH - LABELS - 50.0) / LONGEST;
    let height = TOP + ROW * comparisons.len() as f64 + 24.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#808890\" role=\"img\" \
         aria-label=\"Rate of quinistry against nginx and against the limit\">\n\
         <style>.n{{fill:#2f81f7}}.l{{fill:#d29922}}</style>\n\
         <rect class=\"n\" x=\"{LABELS}\" y=\"6\" width=\"12\" height=\"12\"/>\
         <text x=\"{}\" y=\"16\">rate against nginx</text>\n\
         <rect class=\"l\" x=\"{}\" y=\"6\" width=\"12\" height=\"12\"/>\
         <text x=\"{}\" y=\"16\">against a server that parses nothing</text>\n",
        LABELS + 18.0,
        LABELS + 150.0,
        LABELS + 168.0,
    );
    let mut put = |line: String| writeln!(svg, "{line}").expect("a String takes everything");
    for (row, comparison) in comparisons.iter().enumerate() {
        let top = TOP + ROW * row as f64;
        let (x, y) = (LABELS - 8.0, top + BAR + 4.0);
        put(format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{}</text>", comparison.name()));
        for (bar, (class, ratio)) in [("n", comparison.nginx), ("l", Some(comparison.limit))].into_iter().enumerate() {
            let Some(ratio) = ratio else { continue };
            let (y, width) = (top + BAR * bar as f64, ratio.min(LONGEST) * scale);
            let text_y = y + 10.5;
            // Two strokes through the bar, in a color that is visible on both backgrounds.
            let (cut_x, cut_y) = (LABELS + width - 14.0, y + BAR);
            let cut = if ratio > LONGEST {
                format!(
                    "<path d=\"M{cut_x:.1} {cut_y}l5 -15m4 0l-5 15\" stroke=\"#808890\" stroke-width=\"2\" fill=\"none\"/>"
                )
            } else {
                String::new()
            };
            put(format!(
                "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\"/>\
                 <text x=\"{WIDTH}\" y=\"{text_y}\" text-anchor=\"end\">{ratio:.2}</text>{cut}",
                BAR - 1.0
            ));
        }
    }
    let (x, bottom) = (LABELS + scale, height - 20.0);
    put(format!(
        "<path d=\"M{x:.1} {}V{bottom}\" stroke=\"#808890\" stroke-dasharray=\"3 3\"/>\
         <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">1.0</text>\n</svg>",
        TOP - 4.0,
        height - 6.0
    ));
    svg
}
