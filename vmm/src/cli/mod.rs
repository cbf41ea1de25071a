//! The command line.
use std::ffi::OsString;
use std::process::ExitCode;
/// Runs.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.collect();
    let path = std::path::Path::new(&args[1]);
    let text = std::fs::read_to_string(path).unwrap();
    let mut s = crate::Scenario::parse("x", &text).unwrap();
    if let Some(l) = args.get(2) { s = s.layout(crate::Layout::from_name(l.to_str().unwrap()).unwrap()); }
    if let Some(l) = args.get(3) { s = s.leaf_rule(crate::LeafRule::from_name(l.to_str().unwrap()).unwrap()); }
    let bed = crate::TestBed::new().unwrap();
    println!("{:#?}", bed.abilities(s.cpu_request()));
    for _ in 0..3 {
    let r = bed.run(&s).unwrap();
    for f in r.findings.iter().take(40) { println!("{} {:?} {}", f.rule, f.witnesses, f.message); }
    for f in r.faults.iter().take(20) { println!("{:x?}", f); }
    println!("{:?} {:x?} {:?} {:?} {:?}", r.probes, r.calls, r.skipped, r.notes, r.timing);
    }
    ExitCode::SUCCESS
}
