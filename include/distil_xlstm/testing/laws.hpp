#pragma once

// The laws of every concept, tried on a model of one's own: check_block, check_term, check_expression,
// check_schedule, check_device, check_communicator. Each gives a law_report that names the first law that is broken.
#include <distil_xlstm/testing/check_block.hpp>
#include <distil_xlstm/testing/check_communicator.hpp>
#include <distil_xlstm/testing/check_device.hpp>
#include <distil_xlstm/testing/check_expression.hpp>
#include <distil_xlstm/testing/check_schedule.hpp>
#include <distil_xlstm/testing/check_term.hpp>
