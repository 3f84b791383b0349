// All of pikv that needs no accelerator; defines nothing itself.
#pragma once

#include "pikv/backend.hpp"
#include "pikv/capture.hpp"
#include "pikv/chunk_key.hpp"
#include "pikv/composer.hpp"
#include "pikv/finder.hpp"
#include "pikv/geometry.hpp"
#include "pikv/memory.hpp"
#include "pikv/plan.hpp"
#include "pikv/rope.hpp"
#include "pikv/status.hpp"
#include "pikv/store.hpp"
#include "pikv/tier.hpp"
#include "pikv/types.hpp"
#include "pikv/version.hpp"
