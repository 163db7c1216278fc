//! Arguments of `route`.

use clap::Args;

/// Arguments of `route`.
#[derive(Debug, Args)]
#[command(after_help = "\
  viking route https://shop.example/cart
  viking route shop.example

Says which domain it falls under, whose that is, and which copies are asked, as the store says now.
`viking routes` lists all domains. Ends with 1 when the address leads nowhere.")]
pub struct RouteArgs {
    /// Address of a page, or its host name alone
    pub url: String,
}
