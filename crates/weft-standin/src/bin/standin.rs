//! The stand-in alone, for this crate's tests: what `weft stand-in` is in the product.

fn main() {
    std::process::exit(weft_standin::main());
}
