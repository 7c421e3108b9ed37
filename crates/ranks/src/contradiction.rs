//! Variables that cannot all be true, as a table.

use std::error::Error;
use std::fmt;

use crate::Node;

/// One variable of a contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Its name.
    pub variable: String,
    /// What it is set to, if it is.
    pub value: Option<String>,
    /// Why that cannot be.
    pub why: String,
}

/// Variables that cannot all be true. Shown as a table with a way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// Every variable that is wrong; never empty.
    pub mistakes: Vec<Mistake>,
    /// What to do about it.
    pub hint: String,
}

impl Contradiction {
    /// Somebody asks for one of a node's processes where the node itself is meant.
    pub(crate) fn of_a_node(node: &Node) -> Contradiction {
        let mistake = Mistake {
            variable: "PET_NPROC_PER_NODE".to_owned(),
            value: Some(node.nproc_per_node.to_string()),
            why: "several processes are to run here, and this is none of them: `LOCAL_RANK` is not set".to_owned(),
        };
        let hint = "`sdtrain launch -- train …` reads the same variables and starts them".to_owned();
        Contradiction { mistakes: vec![mistake], hint }
    }

    /// The table alone, for whoever shows the hint in a way of their own.
    pub fn table(&self) -> String {
        const HEAD: [&str; 3] = ["variable", "value", "why it cannot be"];
        let shown = |mistake: &Mistake| match &mistake.value {
            Some(value) => format!("`{value}`"),
            None => "not set".to_owned(),
        };
        let width = |head: &str, of: &dyn Fn(&Mistake) -> usize| {
            self.mistakes.iter().map(of).chain([head.len()]).max().unwrap_or_default()
        };
        let names = width(HEAD[0], &|mistake| mistake.variable.chars().count());
        let values = width(HEAD[1], &|mistake| shown(mistake).chars().count());
        let mut table = format!("the variables of this process contradict each other\n  {:names$}  ", HEAD[0]);
        table += &format!("{:values$}  {}", HEAD[1], HEAD[2]);
        for mistake in &self.mistakes {
            table += &format!("\n  {:names$}  {:values$}  {}", mistake.variable, shown(mistake), mistake.why);
        }
        table
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n  hint: {}", self.table(), self.hint)
    }
}

impl Error for Contradiction {}
