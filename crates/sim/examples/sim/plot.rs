//! The two drawings of a run: who is complete when, and where the bytes came from.

use std::io;
use std::path::Path;

use embedded_graphics::pixelcolor::Rgb888;
use floodway_sim::{Report, Shares};

use crate::chart::{Chart, Series, write_png, write_svg};

const BLUE: Rgb888 = Rgb888::new(31, 100, 200);
const ORANGE: Rgb888 = Rgb888::new(230, 120, 20);
const GREEN: Rgb888 = Rgb888::new(40, 150, 60);
const RED: Rgb888 = Rgb888::new(200, 40, 40);
const DARK: Rgb888 = Rgb888::new(110, 110, 110);

/// Writes `NAME-seed-N.svg` and `.png` into the folder.
pub(crate) fn draw(report: &Report, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let charts = [completion(report), sources(report)];
    let path = |ending| folder.join(format!("{}-seed-{}.{ending}", report.name, report.seed));
    write_svg(&charts, &path("svg"))?;
    write_png(&charts, &path("png"))?;
    println!(
        "drawn to {} and {}",
        path("svg").display(),
        path("png").display()
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a drawing")]
fn completion(report: &Report) -> Chart {
    let total = |shares: &Shares| shares.seeds + shares.peers + shares.relays + shares.origins;
    let all = report.curve.last().map_or(1, |(_, shares)| total(shares)) as f64;
    let percent = |part: f64| part * 100.0;
    let times = report.finish_seconds();
    let mut nodes = vec![(0.0, 0.0)];
    for (at, &time) in times.iter().enumerate() {
        nodes.push((time, percent(at as f64 / times.len() as f64)));
        nodes.push((time, percent((at + 1) as f64 / times.len() as f64)));
    }
    let bytes = report
        .curve
        .iter()
        .map(|(time, shares)| (time.as_secs_f64(), percent(total(shares) as f64 / all)));
    let bound = report.bound_seconds();
    Chart {
        title: format!(
            "{}, seed {}: efficiency {:.3}, {:.3} source copies",
            report.name,
            report.seed,
            report.efficiency(),
            report.source_copies()
        ),
        x_label: "virtual seconds",
        y_label: "%",
        series: vec![
            Series {
                label: "bytes received".into(),
                colour: BLUE,
                points: bytes.collect(),
            },
            Series {
                label: "nodes complete".into(),
                colour: GREEN,
                points: nodes,
            },
            Series {
                label: "least makespan".into(),
                colour: DARK,
                points: vec![(bound, 0.0), (bound, 100.0)],
            },
        ],
    }
}

#[expect(clippy::cast_precision_loss, reason = "a drawing")]
fn sources(report: &Report) -> Chart {
    let of = |label: &str, colour, part: fn(&Shares) -> u64| Series {
        label: label.into(),
        colour,
        points: report
            .curve
            .iter()
            .map(|(time, shares)| (time.as_secs_f64(), part(shares) as f64 / 1e6))
            .collect(),
    };
    let mut series = vec![
        of("other nodes", BLUE, |shares| shares.peers),
        of("seeds", GREEN, |shares| shares.seeds),
        of("relays, HTTP", ORANGE, |shares| shares.relays),
        of("origin, HTTP", RED, |shares| shares.origins),
    ];
    series.retain(|series| series.points.iter().any(|point| point.1 > 0.0));
    Chart {
        title: "Where the bytes came from".into(),
        x_label: "virtual seconds",
        y_label: "MB so far",
        series,
    }
}

#[cfg(test)]
mod tests {
    use floodway_proto::{ByteRate, Layout};
    use floodway_sim::plan::{Link, NodePlan, Plan};

    use super::*;

    #[test]
    fn a_run_is_drawn_to_both_formats() {
        let link = Link::of(ByteRate(1_000_000));
        let layout = Layout::new(Some(1 << 20), 32 << 10).unwrap();
        let plan = Plan::new(
            "drawn",
            layout,
            vec![NodePlan::seed(link), NodePlan::new(link)],
        );
        let report = floodway_sim::run(&plan, 7);
        let folder = tempfile::tempdir().unwrap();
        draw(&report, folder.path()).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let svg = String::from_utf8(read("drawn-seed-7.svg")).unwrap();
        for text in [
            "<svg",
            "nodes complete",
            "least makespan",
            "seeds",
            "</svg>",
        ] {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
        let png = read("drawn-seed-7.png");
        let mut picture = png::Decoder::new(io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; picture.output_buffer_size().unwrap()];
        picture.next_frame(&mut pixels).unwrap();
        let line = [BLUE, GREEN, DARK].map(|colour| {
            use embedded_graphics::pixelcolor::RgbColor as _;
            [colour.r(), colour.g(), colour.b()]
        });
        for colour in line {
            assert!(
                pixels.chunks(3).any(|pixel| pixel == colour),
                "no line of {colour:?}"
            );
        }
    }
}
