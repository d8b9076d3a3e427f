from tokencredit.stages.stage import Stage
class RLStage(Stage):
    name="rl"
    version=1
    def inputs(self): return {}
    def run(self,out): return {}
