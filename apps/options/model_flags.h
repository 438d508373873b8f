// model_flags: the flags that say which model, for every command that makes one.
#pragma once

#include "apps/options/flag_table.h"

namespace vvtq::apps {

/// --model and the sizes of all families; where the command `trains`, classes and stochastic depth too.
void add_model(FlagTable& flags, ModelFlags& model, bool trains);

/// The model in a file that may not say what it holds: --model, sizes, classes and bit widths.
void add_foreign_model(FlagTable& flags, Options& options);

}  // namespace vvtq::apps
