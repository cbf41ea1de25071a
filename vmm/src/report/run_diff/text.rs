//! The difference of two runs as a person reads it.

use super::{Change, RunDiff};
use crate::report::style::{Paint, counted, printable};

impl RunDiff<'_> {
    /// On so many columns if it is a terminal; with a newline at the end.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let sections = [self.title(paint), self.of_regions(paint), self.of_findings(paint), self.untold(paint)];
        let sections: Vec<String> =
            sections.into_iter().filter(|lines| !lines.is_empty()).map(|lines| lines.join("\n")).collect();
        sections.join("\n\n") + "\n"
    }

    fn title(&self, paint: Paint) -> Vec<String> {
        let [first, second] = [&self.first, &self.second].map(|side| printable(side.file));
        let names = format!("{first} and {second}");
        let mut lines = match self.is_empty() {
            true if self.not_compared.is_empty() => vec![format!("{}: {names}", paint.right("the same"))],
            true => paint.wrapped(&format!("the same, as far as both tell: {names}"), 0),
            false => {
                let regions = counted(self.regions.len() as u64, "region");
                let of = |change| self.findings.iter().filter(|finding| finding.change == change).count();
                let (gone, new) = (of(Change::Gone), of(Change::New));
                paint.wrapped(&format!("{regions} differ, {new} findings are new and {gone} gone: {names}"), 0)
            }
        };
        let sides = [&self.first, &self.second];
        for (what, [before, after]) in [
            ("verdict", sides.map(|side| side.verdict.to_owned())),
            ("map", sides.map(|side| side.map.to_owned())),
            ("mapper", sides.map(|side| side.mapper.clone())),
        ] {
            if before != after {
                lines.extend(paint.labelled(&format!("  {what}"), &printable(&format!("{before} -> {after}")), 12));
            }
        }
        lines
    }

    fn of_regions(&self, paint: Paint) -> Vec<String> {
        let mut lines = Vec::new();
        for region in &self.regions {
            let title = format!("{} {} at {}", region.change.name(), printable(region.r#type), region.phys);
            lines.push(if region.change == Change::Changed { title } else { paint.wrong(title) });
            for difference in &region.differences {
                let text = printable(&format!("{} -> {}", difference.before, difference.after)).into_owned();
                lines.extend(paint.labelled(&format!("  {}", difference.what), &text, 12));
            }
        }
        lines
    }

    fn of_findings(&self, paint: Paint) -> Vec<String> {
        let mut lines = Vec::new();
        for finding in &self.findings {
            let title = format!(
                "{} finding {} (phase {})",
                finding.change.name(),
                printable(finding.rule),
                printable(finding.phase)
            );
            lines.push(if finding.change == Change::New { paint.wrong(title) } else { paint.right(title) });
            lines.extend(paint.wrapped(&format!("  {}", printable(finding.message)), 2));
        }
        lines
    }

    fn untold(&self, paint: Paint) -> Vec<String> {
        let untold = self.not_compared.iter();
        untold.flat_map(|what| paint.labelled("not compared", &printable(what), 14)).collect()
    }
}
