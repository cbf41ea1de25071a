//! The mapping code runs natively, and the software walk alone looks at its tables.

use std::time::Instant;

use efibed_guest::page_table::AddressSpace;
use efibed_guest::{MapContext, MapError, Mapper};

use super::course;
use super::stray::Untouchable;
use super::{EngineError, Job, Moment};
use crate::check::{self, Expectation, Marks, Phase, Rule, TableCheck};
use crate::guest::{Image, Loaded, Placement};
use crate::machine::CpuidRequest;
use crate::mmu::{Access, Cpu, Pa, Paging, Va, Vendor, Walk, walk};
use crate::report::{EngineName, Report};

/// Runs a job without a machine.
pub fn run(job: &Job<'_>) -> Result<Report, EngineError> {
    Ok(run_and_walk(job, Va(0))?.0)
}

/// Runs a job, and walks to one address on the tables it made, if it made any.
pub fn run_and_walk(job: &Job<'_>, va: Va) -> Result<(Report, Option<Walk>), EngineError> {
    let start = Instant::now();
    let paging = Paging { rules: job.rules, ..model(&job.cpu) };
    let mut report = course::empty_report(job, EngineName::Walker, Cpu::honest(paging));
    let mut marks = Marks::default();
    report.notes = check::judge_map(job.map, &paging, &mut marks);

    let image = Image::built_in()?;
    let sizes = Loaded::sizes(image, job.map, course::pool_pages(job.map), 0);
    let placement = match Placement::find(job.map, sizes, 1 << paging.maxphyaddr, &[]) {
        Ok(placement) => placement,
        Err(no_room) => {
            marks.push_worded(Phase::Input, Rule::NoRoom, None, no_room.to_string());
            report.findings = marks.into_findings(Phase::Map, job.map, None);
            report.regions = course::region_reports(job.map, None, &report.findings);
            return Ok((report, None));
        }
    };
    let loaded = Loaded::new(image, job.map, placement, &[], &paging)?;
    report.timing.build = start.elapsed();

    let mapping = Instant::now();
    let untouchable = Untouchable::new(&loaded);
    let mapped = map(job, &loaded, &report.cpu);
    report.timing.map = mapping.elapsed();
    if let Some(pa) = untouchable.first_change(&loaded) {
        marks.push_worded(Phase::Map, Rule::StrayWrite, None, course::stray_write(pa));
    }
    let checking = Instant::now();
    let mut walked = None;
    match mapped {
        Err(error) => {
            course::mapper_error(Phase::Map, error, job.map, course::pool_pages(job.map), &mut marks);
            report.findings = marks.into_findings(Phase::Map, job.map, None);
            report.regions = course::region_reports(job.map, None, &report.findings);
        }
        Ok((space, count)) => {
            for moment in [Moment::BeforeWalk, Moment::AfterWalk] {
                course::tamper(job, moment, &loaded.memory, space.root(), &paging);
            }
            let kernel = course::ranges(&loaded.keep);
            let layout = job.mapper.layout;
            let virtual_map = loaded.virtual_map(count as u64);
            let expectation = Expectation::new(job.map, layout, &virtual_map, &paging, paging.nxe, &kernel, &mut marks);
            let tables = TableCheck {
                memory: &loaded.memory,
                root: Pa(space.root()),
                kernel_root: Pa(loaded.kernel_root),
                kernel: &kernel,
                told: &paging,
                expectation: &expectation,
            };
            let verdict = tables.run(&mut marks);
            report.findings_omitted = marks.omitted();
            let seen = check::Tables { memory: &loaded.memory, root: Pa(space.root()), told: &paging };
            report.findings = marks.into_findings(Phase::Map, job.map, Some(seen));
            report.regions = course::region_reports(job.map, Some((&expectation, &verdict)), &report.findings);
            report.runs = verdict.runs;
            walked = Some(walk(&loaded.memory, Pa(space.root()), va, Access::read(), &paging));
        }
    }
    report.timing.check = checking.elapsed();
    report.timing.total = start.elapsed();
    Ok((report, walked))
}

/// The CPU that is modelled where nothing is asked for: 46 bits of physical address, everything but five levels and keys.
fn model(asked: &CpuidRequest) -> Paging {
    Paging {
        la57: asked.la57 == Some(true),
        maxphyaddr: asked.maxphyaddr.unwrap_or(46),
        gbpages: asked.gbpages != Some(false),
        nxe: asked.nx != Some(false),
        wp: true,
        smep: asked.smep != Some(false),
        smap: asked.smap != Some(false),
        pke: asked.pku == Some(true),
        vendor: Vendor::Intel,
        ..Paging::default()
    }
}

/// Runs the mapper on the guest's memory, as the guest would.
fn map(job: &Job<'_>, loaded: &Loaded, cpu: &Cpu) -> Result<(AddressSpace, usize), MapError> {
    let request = loaded.request(job.mapper, course::offer(cpu));
    let offset = loaded.memory.host_offset();
    // SAFETY: all that the request names is this guest's memory, mapped in this process at that offset for as long as
    // `loaded` lives; nobody else touches it meanwhile, and the pool is as new.
    let context = unsafe { MapContext::from_request(&request, offset) };
    let mut context = context.ok_or(MapError::TooManyRegions { index: 0 })?;
    let mut mapper = job.mapper;
    let space = mapper.map(&mut context)?;
    mapper.finish(&mut context, space)?;
    Ok((space, context.mapped_count()))
}
