//! The plot of the page: a bar for each way of each work, as long as the time it took beside the
//! slowest of the same work.

use std::fmt::Write;

use crate::copy::OURS;
use crate::page::All;

/// Pixels.
const WIDTH: usize = 860;
const LEFT: usize = 190;
const LONGEST: usize = 540;
const BAR: usize = 18;
const STEP: usize = 24;

struct Group {
    title: String,
    bars: Vec<(String, f64, bool)>,
}

/// The plot as SVG.
pub(crate) fn plot(all: &All) -> String {
    let mut groups = Vec::new();
    if let Some(live) = &all.live {
        let bars = live.kept.iter().enumerate();
        groups.push(Group {
            title: "1 KB change, close() to readable, p50".to_owned(),
            bars: bars
                .map(|(at, kept)| (kept.name.clone(), kept.percentile(0.5), at == 0))
                .collect(),
        });
    }
    groups.extend(all.happened.iter().map(|event| {
        let bars = event.ways.iter().map(|way| (way.name.clone(), way.best(), way.name == OURS));
        Group { title: event.title.clone(), bars: bars.collect() }
    }));
    groups.extend(all.copies.iter().map(|copy| {
        let bars = copy.ways.iter().map(|way| (way.name.to_owned(), way.best(), way.name == OURS));
        Group { title: copy.title.clone(), bars: bars.collect() }
    }));
    draw(&groups)
}

fn draw(groups: &[Group]) -> String {
    let mut body = String::new();
    let mut y = 54;
    for group in groups {
        let _ = writeln!(
            body,
            "<text x=\"16\" y=\"{}\" class=\"work\">{}</text>",
            y + 12,
            escaped(&group.title)
        );
        y += STEP;
        let slowest =
            group.bars.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (name, value, ours) in &group.bars {
            let length = (value / slowest * LONGEST as f64).max(1.5);
            let fill = if *ours { "#1f6feb" } else { "#b4bcc6" };
            let middle = y + BAR - 5;
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{fill}\"/>\
                 <text x=\"{:.1}\" y=\"{middle}\" class=\"{}\">{}</text>",
                LEFT - 8,
                escaped(name),
                LEFT as f64 + length + 6.0,
                if *ours { "ours" } else { "peer" },
                shown(*value),
            );
            y += STEP;
        }
        y += 12;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n\
         <style>.work{{font-weight:bold;font-size:13px}} .ours{{font-weight:bold}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">lsyncd beside its peers</text>\n\
         <text x=\"16\" y=\"43\" fill=\"#59636e\">time taken, shorter is better; each work on a scale of its own</text>\n\
         {body}</svg>\n"
    )
}

fn shown(value: f64) -> String {
    if value < 0.1 { format!("{:.1} ms", value * 1000.0) } else { format!("{value:.2} s") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
