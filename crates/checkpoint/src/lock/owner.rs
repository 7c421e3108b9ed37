//! Who holds a lock, as its file says it.

use std::fs;

/// A line for each: `process`, `host`, `boot` (the id that the kernel gives each start of the machine), `started` and, where the
/// file may be another machine's as well, `beat`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub process: String,
    pub host: String,
    pub boot: String,
    /// Clock ticks from the start of the machine to that of the process: with the boot, what tells it from a later one of its number.
    pub started: String,
    /// How often it has said that it is alive, where it says so; equal lengths, since the text is written over.
    pub beat: String,
}

impl Owner {
    pub fn this() -> Owner {
        let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        // Behind the name, which may hold anything and ends with the last bracket, the start is the 20th.
        let stat = line("/proc/self/stat");
        let started = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or_default();
        Owner {
            process: std::process::id().to_string(),
            host: line("/proc/sys/kernel/hostname"),
            boot: line("/proc/sys/kernel/random/boot_id"),
            started: started.to_owned(),
            beat: String::new(),
        }
    }

    /// The same owner at a beat.
    pub fn at_beat(&self, beat: u64) -> Owner {
        Owner { beat: format!("{beat:010}"), ..self.clone() }
    }

    /// Whether both are one process, whatever their beats.
    pub fn is_same_process(&self, other: &Owner) -> bool {
        Owner { beat: String::new(), ..self.clone() } == Owner { beat: String::new(), ..other.clone() }
    }

    pub fn to_text(&self) -> String {
        let Owner { process, host, boot, started, beat } = self;
        let mut text = format!("process {process}\nhost {host}\nboot {boot}\nstarted {started}\n");
        if !beat.is_empty() {
            text += &format!("beat {beat}\n");
        }
        text
    }

    pub fn parse(text: &str) -> Owner {
        let value = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            // It goes to a terminal.
            found.unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
        };
        Owner {
            process: value("process"),
            host: value("host"),
            boot: value("boot"),
            started: value("started"),
            beat: value("beat"),
        }
    }

    /// ` (process 123)`, with the host where that is another; nothing where it is not known.
    pub fn in_words(&self) -> String {
        let here = Owner::this();
        match (self.process.is_empty(), self.host.is_empty() || self.host == here.host) {
            (true, _) => String::new(),
            (false, true) => format!(" (process {})", self.process),
            (false, false) => format!(" (process {} on {})", self.process, self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_on_another_machine_is_named_with_it() {
        let owner = Owner { process: "7".to_owned(), host: "node\u{1b}3".to_owned(), ..Owner::default() };
        assert_eq!(Owner::parse(&owner.to_text()).in_words(), " (process 7 on node3)");
        assert_eq!(Owner::parse("process 7").in_words(), " (process 7)", "as an older version wrote it");
        assert_eq!(Owner::parse("").in_words(), "");
    }

    #[test]
    fn a_process_is_told_from_others_whatever_its_beats() {
        let here = Owner::this();
        assert!(here.at_beat(3).is_same_process(&here.at_beat(4)));
        assert_eq!(here.at_beat(3).to_text().len(), here.at_beat(4_000_000).to_text().len());
        assert!(!here.is_same_process(&Owner { started: "1".to_owned(), ..here.clone() }));
    }
}
