//! What the number that the program ends with means.

/// What the number that the program ends with means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Done = 0,
    /// The command line or the configuration is wrong.
    Configuration = 2,
    /// The images or captions are wrong.
    Data = 3,
    /// A model file or checkpoint is wrong.
    Model = 4,
    /// Numbers became infinite or undefined.
    NonFinite = 5,
    /// The device's memory does not suffice.
    DeviceMemory = 6,
    /// A disk is full or refuses.
    Storage = 7,
    /// A process of a distributed run failed.
    Rank = 8,
    /// Another run writes to the output folder.
    FolderInUse = 9,
    /// The program itself is at fault.
    Internal = 70,
    /// A signal stopped the run after it saved its state; starting it again continues.
    Stopped = 75,
    /// A second Ctrl-C stopped the run at once.
    Interrupted = 130,
}

impl ExitCode {
    const ALL: [ExitCode; 12] = [
        ExitCode::Done,
        ExitCode::Configuration,
        ExitCode::Data,
        ExitCode::Model,
        ExitCode::NonFinite,
        ExitCode::DeviceMemory,
        ExitCode::Storage,
        ExitCode::Rank,
        ExitCode::FolderInUse,
        ExitCode::Internal,
        ExitCode::Stopped,
        ExitCode::Interrupted,
    ];

    /// What a number that the program ended with means; none where it never ends with that.
    pub fn of_number(number: i32) -> Option<ExitCode> {
        ExitCode::ALL.into_iter().find(|&code| code as i32 == number)
    }

    /// In a few words.
    pub fn meaning(self) -> &'static str {
        match self {
            ExitCode::Done => "done",
            ExitCode::Configuration => "the command line or configuration is wrong",
            ExitCode::Data => "the images or captions are wrong",
            ExitCode::Model => "a model file or checkpoint is wrong",
            ExitCode::NonFinite => "numbers that are not finite",
            ExitCode::DeviceMemory => "too little memory",
            ExitCode::Storage => "a disk is full or refuses",
            ExitCode::Rank => "another rank failed",
            ExitCode::FolderInUse => "the output folder is in use",
            ExitCode::Internal => "our own fault",
            ExitCode::Stopped => "stopped by a signal after saving",
            ExitCode::Interrupted => "a second Ctrl-C",
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}
